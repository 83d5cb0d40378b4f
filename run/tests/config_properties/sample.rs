//! Random values of every kind of serde's data model.

use std::collections::BTreeMap;

use proptest::{collection, option, prelude::*};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sample {
    text: String,
    floats: Vec<f64>,
    pair: (f32, i64),
    large: u64,
    flag: bool,
    letter: char,
    maybe: Option<String>,
    nested: Option<Box<Self>>,
    map: BTreeMap<String, Option<u8>>,
    numbers: BTreeMap<i32, Vec<String>>,
    kind: Kind,
    kinds: Vec<Kind>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Kind {
    Unit,
    #[serde(rename = "kind.Newtype")]
    Newtype(Inner),
    Scalar(f64),
    Maybe(Option<u8>),
    List(Vec<u8>),
    Map(BTreeMap<String, u8>),
    Tuple(u8, String),
    Struct {
        kind: Box<Self>,
        name: String,
    },
    Nested(Box<Self>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Inner {
    #[serde(rename = "lr-max")]
    lr: f64,
    unit: Option<Plain>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Plain {
    Bf16,
    True,
}

/// Draws any text, often one that YAML reads as another type.
pub(crate) fn text() -> impl Strategy<Value = String> {
    let odd = [
        "null",
        "true",
        "1.0",
        "~",
        "",
        "None",
        "yes",
        "1e5",
        "0x1F",
        ".inf",
        "a: b",
        "a #b",
        "- a",
        "x\ny",
        " x",
        "x ",
        "[",
        "{",
        "&a",
        "*a",
        "!t",
        "|",
        ">",
        "%",
        "@",
        "`",
        "'",
        "\"",
        "\\",
        "<<",
        "=",
        "---",
        "_target_x",
        "\u{85}",
        "\u{2028}",
        "\u{feff}",
        "🦀",
        "\r\n",
    ];
    prop_oneof![proptest::sample::select(odd.to_vec()).prop_map(str::to_owned), any::<String>()]
}

pub(crate) fn float() -> impl Strategy<Value = f64> {
    prop_oneof![
        proptest::sample::select(vec![
            0.0,
            -0.0,
            1.0,
            1e-5,
            2e-5,
            1e16,
            1e300,
            5e-324,
            f64::MAX,
            f64::INFINITY,
            f64::NEG_INFINITY
        ]),
        any::<f64>().prop_filter("NaN equals nothing", |value| !value.is_nan()),
    ]
}

pub(crate) fn kind() -> impl Strategy<Value = Kind> {
    let inner = (float(), option::of(proptest::sample::select(vec![Plain::Bf16, Plain::True])));
    let leaf = prop_oneof![
        Just(Kind::Unit),
        inner.prop_map(|(lr, unit)| Kind::Newtype(Inner { lr, unit })),
        float().prop_map(Kind::Scalar),
        option::of(any::<u8>()).prop_map(Kind::Maybe),
        collection::vec(any::<u8>(), 0..3).prop_map(Kind::List),
        collection::btree_map(text(), any::<u8>(), 0..3).prop_map(Kind::Map),
        (any::<u8>(), text()).prop_map(|(number, text)| Kind::Tuple(number, text)),
    ];
    leaf.prop_recursive(3, 8, 2, |kind| {
        prop_oneof![
            (kind.clone(), text()).prop_map(|(kind, name)| Kind::Struct {
                kind: Box::new(kind),
                name
            }),
            kind.prop_map(|kind| Kind::Nested(Box::new(kind))),
        ]
    })
}

pub(crate) fn sample() -> impl Strategy<Value = Sample> {
    let scalars = (
        text(),
        collection::vec(float(), 0..4),
        any::<(i16, i64)>(),
        any::<(u64, bool, char)>(),
        option::of(text()),
    );
    let map = collection::btree_map(text(), option::of(any::<u8>()), 0..3);
    let numbers = collection::btree_map(any::<i32>(), collection::vec(text(), 0..40), 0..3);
    let flat = (scalars, map, numbers, kind(), collection::vec(kind(), 0..3)).prop_map(|(scalars, map, numbers, kind, kinds)| {
        let (text, floats, (small, long), (large, flag, letter), maybe) = scalars;
        let pair = (f32::from(small) / 10.0, long);
        Sample {
            text,
            floats,
            pair,
            large,
            flag,
            letter,
            maybe,
            nested: None,
            map,
            numbers,
            kind,
            kinds,
        }
    });
    let flat = flat.boxed();
    (flat.clone(), option::of(flat)).prop_map(|(outer, inner)| Sample {
        nested: inner.map(Box::new),
        ..outer
    })
}
