//! Meaning of values: scalars by type, overrides, merging, and the written text.

use std::{collections::BTreeMap, fmt::Debug};

use neva_run::config::{self, Node, Origin, Override, Source, Value, locate};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

#[track_caller]
fn parse(yaml: &str) -> Node {
    config::parse(&Source::new("test.yaml", yaml)).unwrap_or_else(|error| panic!("{error}: {yaml}"))
}

/// Checks the values of a map as `T`; `None` for those that `T` rejects.
#[track_caller]
fn check_as<T: DeserializeOwned + PartialEq + Debug>(cases: &[(&str, Option<T>)]) {
    for (text, expect) in cases {
        let root = parse(&format!("v: {text}"));
        let value = config::from_node::<BTreeMap<String, T>>(&root).map(|mut map| map.remove("v"));
        let found = value.as_ref().ok().and_then(Option::as_ref);
        assert_eq!(found, expect.as_ref(), "{text:?}: {value:?}");
    }
}

#[test]
fn text_keeps_its_spelling() {
    for text in [
        "1.10", "yes", "1_000", "0x1F", "1e5", "007", "on", ".5", "true", "None", "-0", "1e999", "12:30:45",
    ] {
        check_as(&[(text, Some(text.to_owned()))]);
    }
    check_as(&[
        ("'it''s'", Some("it's".to_owned())),
        ("\"a\\nb\"", Some("a\nb".to_owned())),
        ("|-\n  5", Some("5".to_owned())),
        ("!!str null", Some("null".to_owned())),
        ("two\n  lines", Some("two lines".to_owned())),
        ("null", None),
        ("~", None),
        ("", None),
        ("[a]", None),
    ]);
}

#[test]
fn integers() {
    check_as(&[
        ("12", Some(12_u64)),
        ("1_000", Some(1000)),
        ("+1", Some(1)),
        ("007", Some(7)),
        ("0x1F", Some(31)),
        ("0o17", Some(15)),
        ("18446744073709551615", Some(u64::MAX)),
        ("18446744073709551616", None),
        ("-1", None),
        ("1.0", None),
        ("1e3", None),
        ("_1", None),
        ("1__0", None),
        ("0x", None),
        ("+", None),
        ("'5'", None),
        ("|-\n  5", None),
        ("true", None),
        ("null", None),
    ]);
    check_as(&[("-9223372036854775808", Some(i64::MIN)), ("9223372036854775808", None)]);
    check_as(&[("255", Some(u8::MAX)), ("256", None)]);
    check_as(&[("-170141183460469231731687303715884105727", Some(-i128::MAX))]);
}

#[test]
fn floats() {
    check_as(&[
        ("1e-4", Some(1e-4)),
        ("1", Some(1.0)),
        (".5", Some(0.5)),
        ("1.", Some(1.0)),
        ("-1_000.5", Some(-1000.5)),
        ("2E+3", Some(2000.0)),
        (".inf", Some(f64::INFINITY)),
        ("-.INF", Some(f64::NEG_INFINITY)),
        ("1e999", None),
        ("inf", None),
        ("nan", None),
        ("1e", None),
        ("1.2.3", None),
        ("'1.5'", None),
    ]);
    check_as(&[("0.1", Some(0.1_f32)), ("1e39", None)]);
    let nan: Vec<f64> = config::from_node(&parse("[.nan]")).unwrap();
    assert!(nan[0].is_nan());
}

#[test]
fn booleans() {
    check_as(&[
        ("true", Some(true)),
        ("False", Some(false)),
        ("yes", Some(true)),
        ("Off", Some(false)),
        ("1", Some(true)),
        ("0", Some(false)),
        ("y", None),
        ("2", None),
        ("'true'", None),
    ]);
}

#[test]
fn optional_values() {
    check_as(&[
        ("null", Some(None)),
        ("~", Some(None)),
        ("None", Some(None)),
        ("", Some(None)),
        ("5", Some(Some(5_u8))),
        ("none", None),
    ]);
    check_as(&[("'null'", Some(Some("null".to_owned()))), ("\"\"", Some(Some(String::new())))]);
}

#[test]
fn keys_are_typed_too() {
    check_as(&[
        ("{1: a, 0x10: b}", Some(BTreeMap::from([(1_u32, 'a'), (16, 'b')]))),
        ("{x: a}", None),
    ]);
    check_as(&[("{true: 1}", Some(BTreeMap::from([(true, 1_u8)])))]);
}

#[derive(Debug, Deserialize, Serialize, PartialEq)]
enum Shape {
    Point,
    Circle(Circle),
    Radius(f64),
    Line(u8, u8),
    Box { width: u8 },
    Nested(Box<Self>),
    Custom(serde_json::Value),
}

#[derive(Debug, Deserialize, Serialize, PartialEq)]
#[serde(default)]
struct Circle {
    radius: f64,
}

impl Default for Circle {
    fn default() -> Self {
        Self { radius: 1.0 }
    }
}

#[test]
fn variants() {
    check_as(&[
        ("Point", Some(Shape::Point)),
        ("{_target_: Point}", Some(Shape::Point)),
        ("{_target_: Point, x: 1}", None),
        ("Circle", Some(Shape::Circle(Circle { radius: 1.0 }))),
        (
            "{_target_: Circle, _partial_: true, radius: 2}",
            Some(Shape::Circle(Circle { radius: 2.0 })),
        ),
        ("{_target_: Circle, diameter: 2}", None),
        ("{_target_: Radius, _args_: [3]}", Some(Shape::Radius(3.0))),
        ("{_target_: Radius, _args_: [3, 4]}", None),
        ("{_target_: Radius}", None),
        ("{_target_: Line, _args_: [1, 2]}", Some(Shape::Line(1, 2))),
        ("{_target_: Line, _args_: [1]}", None),
        ("{_target_: Line}", None),
        ("{_target_: Box, width: 1}", Some(Shape::Box { width: 1 })),
        ("Box", None),
        ("{_target_: Nested, _args_: [Point]}", Some(Shape::Nested(Box::new(Shape::Point)))),
        (
            "{_target_: my::Own, a: 1_0}",
            Some(Shape::Custom(serde_json::json!({"_target_": "my::Own", "a": 10}))),
        ),
        ("my::Own", None),
        ("{_target_: my.Own, a: 1}", None),
        ("{_target_: Custom, a: 1}", None),
        ("Custom", None),
        ("{width: 1}", None),
        ("[Point]", None),
    ]);
}

const BASE: &str = "a: {b: 1, c: [1, 2], d: null}\nname: x\nt: {_target_: A, p: 1}\n";

/// Applies overrides to [`BASE`] and returns the tree as JSON.
fn overridden(overrides: &[&str]) -> String {
    let mut root = parse(BASE);
    match config::apply_overrides(&mut root, overrides.iter().copied()) {
        Ok(()) => config::to_json(&root).to_string(),
        Err(problems) => problems.errors().iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
    }
}

#[test]
fn overrides() {
    let json = |a: &str, rest: &str| format!(r#"{{"a":{a},"name":"x","t":{{"_target_":"A","p":1}}{rest}}}"#);
    for (overrides, expect) in [
        (vec!["a.b=2"], json(r#"{"b":2,"c":[1,2],"d":null}"#, "")),
        (vec!["a.e = 3"], json(r#"{"b":1,"c":[1,2],"d":null,"e":3}"#, "")),
        (vec!["a.c[1]=5"], json(r#"{"b":1,"c":[1,5],"d":null}"#, "")),
        (vec!["a.c+=[3, 4]", "a.c+=5"], json(r#"{"b":1,"c":[1,2,3,4,5],"d":null}"#, "")),
        (
            vec!["a.b+=2", "a.b*=4", "a.b-=2", "a.b/=5"],
            json(r#"{"b":2,"c":[1,2],"d":null}"#, ""),
        ),
        (vec!["a.b/=2"], json(r#"{"b":0.5,"c":[1,2],"d":null}"#, "")),
        (vec!["a.b+=1e-1"], json(r#"{"b":1.1,"c":[1,2],"d":null}"#, "")),
        (vec!["a|={b: 7, e: {f: 1}}"], json(r#"{"b":7,"c":[1,2],"d":null,"e":{"f":1}}"#, "")),
        (vec!["a.d.e.f=1"], json(r#"{"b":1,"c":[1,2],"d":{"e":{"f":1}}}"#, "")),
        (vec!["~a.b", "~a.c[0]"], json(r#"{"c":[2],"d":null}"#, "")),
        (vec!["a=1"], json("1", "")),
        (vec!["new.x=1"], json(r#"{"b":1,"c":[1,2],"d":null}"#, r#","new":{"x":1}"#)),
        (vec!["n="], json(r#"{"b":1,"c":[1,2],"d":null}"#, r#","n":"""#)),
        (vec!["n=a=b"], json(r#"{"b":1,"c":[1,2],"d":null}"#, r#","n":"a=b""#)),
        (vec!["n==b"], json(r#"{"b":1,"c":[1,2],"d":null}"#, r#","n":"=b""#)),
        (vec!["n=#1"], json(r##"{"b":1,"c":[1,2],"d":null}"##, r##","n":"#1""##)),
        (
            vec![r#""x=y"."z.w"['v']=1"#],
            json(r#"{"b":1,"c":[1,2],"d":null}"#, r#","x=y":{"z.w":{"v":1}}"#),
        ),
        (vec!["run-time=5"], json(r#"{"b":1,"c":[1,2],"d":null}"#, r#","run-time":5"#)),
    ] {
        assert_eq!(overridden(&overrides), expect, "{overrides:?}");
    }
    // Another type has other fields.
    assert!(overridden(&["t._target_=B"]).ends_with(r#""t":{"_target_":"B"}}"#));
    assert!(overridden(&["t._target_=A"]).ends_with(r#""t":{"_target_":"A","p":1}}"#));
    for (over, expect) in [
        ("", "the path is missing: write `path=value`"),
        ("a", "`=` is missing: write `path=value`, or `~path` to delete"),
        ("~", "the path is missing: write `path=value`"),
        ("a.=1", "a name is missing here"),
        ("a[0=1", "`]` is missing: a list index is written `[0]`"),
        ("a[0]b=1", "write `.` or `[` between two segments of a path"),
        (
            "a[-1]=1",
            "a list index is a number from 0, as in `[0]`; a name in brackets needs quotes",
        ),
        (r#"a."b"#, "the closing quote is missing"),
        (
            r#"a."\n"=1"#,
            "only the escapes `\\\"` and `\\\\` are known here; single quotes have no escapes",
        ),
        ("a[0]=1", "`a[0]`: expected a list to descend into, found a map"),
        ("q+=1", "`q`: unknown field `q`"),
        ("a.c-=1", "`a.c`: expected a number, found a list"),
        ("a.b+='1'", "`a.b`: expected a number, found the text \"1\""),
        ("a.b*=1_7e400", "`a.b`: expected a number, found `1_7e400`"),
        ("~a.c[2]", "`a.c[2]`: there is no item 2: the list has 2"),
    ] {
        assert_eq!(overridden(&[over]), expect, "{over:?}");
    }
}

#[test]
fn merging() {
    for (base, over, expect) in [
        ("{a: 1, b: 2}", "{b: 3, c: 4}", r#"{"a":1,"b":3,"c":4}"#),
        ("{a: {b: 1, c: 2}}", "{a: {c: 3}}", r#"{"a":{"b":1,"c":3}}"#),
        ("{a: [1, 2]}", "{a: [3]}", r#"{"a":[3]}"#),
        ("{a: {b: 1}}", "{a: null}", r#"{"a":null}"#),
        ("{a: 1}", "{a: {b: 1}}", r#"{"a":{"b":1}}"#),
        ("{_target_: A, x: 1}", "{_target_: B, y: 2}", r#"{"_target_":"B","y":2}"#),
        ("{_target_: A, x: 1}", "{_target_: 'A', y: 2}", r#"{"_target_":"A","x":1,"y":2}"#),
        ("{_target_: A, x: 1}", "{y: 2}", r#"{"_target_":"A","x":1,"y":2}"#),
    ] {
        let mut root = parse(base);
        config::merge(&mut root, parse(over));
        assert_eq!(config::to_json(&root).to_string(), expect);
    }
}

#[test]
fn values_have_origins() {
    let mut root = parse("a: &x\n  b: 1\n  é: [10, 'q']\nc:\n  <<: *x\n  b: 2\nd: |-\n  text\n");
    let mut over = parse("a: {z: 3}");
    over.origin = Origin::recipe("r");
    config::merge(&mut root, over);
    Override::parse("e.f={g: 5}").unwrap().apply(&mut root).unwrap();
    for (path, expect) in [
        ("", "recipe r"),
        ("a.b", "test.yaml:2:6"),
        ("a.\"é\"[1]", "test.yaml:3:11"),
        ("c.b", "test.yaml:6:6"),
        ("c.é[0]", "test.yaml:3:7"),
        ("a.z", "test.yaml:1:8"),
        ("d", "test.yaml:8:3"),
        ("e.f.g", "--set e.f={g: 5}"),
        ("e", "--set e.f={g: 5}"),
        ("a.y", "-"),
        ("a.é[2]", "-"),
        ("a..b", "-"),
    ] {
        let origin = locate(&root, path).map_or("-".to_owned(), ToString::to_string);
        assert_eq!(origin, expect, "{path}");
    }
    let (source, span) = locate(&root, "e.f.g").unwrap().span().unwrap();
    assert_eq!(&source.text()[span.offset..][..span.len], "5");
}

#[test]
fn yaml_keeps_its_spelling() {
    let yaml = "\
name: tune
version: 1.10
tokens: 1_000
words: [\"yes\", plain, \"1\", \"\", \"null\", \"a: b\", None]
empty: {}
none: null
blocks:
  - a: 1
    b: [1, 2]
  - - x
    - {}
  - \"two\\nlines\"
";
    let root = parse(yaml);
    insta::assert_snapshot!(config::to_yaml_string(&root), @r#"
    name: tune
    version: 1.10
    tokens: 1_000
    words: ["yes", plain, "1", "", "null", "a: b", None]
    empty: {}
    none: null
    blocks:
      - a: 1
        b: [1, 2]
      - - x
        - {}
      - "two\nlines"
    "#);
}

#[test]
fn typed_values_as_yaml() {
    let value = (
        Shape::Circle(Circle { radius: 2e-5 }),
        Shape::Nested(Box::new(Shape::Line(1, 2))),
        BTreeMap::from([("b", Some(1.0_f32)), ("a", None)]),
        [0.1_f32, 1e16, f32::INFINITY],
        ["None", "no", "-", "2024-01-01", "7b", "\u{7f}\u{85}\u{feff}", "é", "x "],
        (u64::MAX, i64::MIN),
    );
    let node = config::to_node(&value, Origin::recipe("r")).unwrap();
    insta::assert_snapshot!(config::to_yaml_string(&node), @r#"
    - _target_: Circle
      radius: 2e-5
    - _target_: Nested
      _args_:
        - _target_: Line
          _args_: [1, 2]
    - a: null
      b: 1.0
    - [0.1, 1e16, .inf]
    - ["None", "no", "-", "2024-01-01", "7b", "\u007f\u0085\ufeff", "é", "x "]
    - [18446744073709551615, -9223372036854775808]
    "#);
}

#[test]
fn trees_as_json() {
    let typed = config::to_node(
        &(Shape::Radius(1.0), u64::MAX, i64::MIN, i128::MAX, f64::INFINITY, "1"),
        Origin::recipe("r"),
    );
    for (node, expect) in [
        (
            typed.unwrap(),
            r#"[{"_target_":"Radius","_args_":[1.0]},18446744073709551615,-9223372036854775808,"170141183460469231731687303715884105727",".inf","1"]"#,
        ),
        (
            parse("[1_000, '1', yes, true, 1e2, ~, None]"),
            r#"[1000,"1","yes",true,100.0,null,"None"]"#,
        ),
    ] {
        assert_eq!(config::to_json(&node).to_string(), expect);
    }
}

#[test]
fn maps_with_keys_that_yaml_cannot_hold_are_refused() {
    let error = config::to_node(&BTreeMap::from([([1, 2], 3)]), Origin::recipe("r")).unwrap_err();
    assert_eq!(error.to_string(), "the keys of a map must be text or integers (set by recipe r)");
}

#[test]
fn a_tree_can_be_built_in_rust() {
    let node = Node::new(Origin::recipe("r"), Value::Seq(vec![Node::new(Origin::recipe("r"), Value::Int(3))]));
    assert_eq!(config::from_node::<Vec<String>>(&node).unwrap(), ["3"]);
}
