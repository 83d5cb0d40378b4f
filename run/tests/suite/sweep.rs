//! Sweeps: valid and invalid texts, their points and the names of points.

use neva_run::{Point, Sweep};
use neva_schemas::{SweepMode, SweepOrder};

fn points(texts: &[&str], order: SweepOrder) -> Result<Vec<Point>, String> {
    let sweep = Sweep::parse(texts, order).map_err(|problems| problems.to_string())?;
    sweep.points().map_err(|error| error.problem.to_string())
}

fn order(mode: SweepMode) -> SweepOrder {
    SweepOrder {
        mode,
        ..SweepOrder::default()
    }
}

#[test]
fn points_are_named_by_differing_values() {
    let cases: &[(SweepMode, &[&str], &[&str])] = &[
        (SweepMode::Grid, &["finetune.optim.lr=1e-4,2e-5"], &["lr=1e-4", "lr=2e-5"]),
        (
            SweepMode::Grid,
            &["a.lr=1,2", "b.lr=3", "steps=5"],
            &["a.lr=1,b.lr=3,steps=5", "a.lr=2,b.lr=3,steps=5"],
        ),
        (SweepMode::Zip, &["a=1,2", "b=x,y"], &["a=1,b=x", "a=2,b=y"]),
        (SweepMode::Grid, &["p=[1, 2],{a: 1}"], &["p=1,2", "p=a-1"]),
        (SweepMode::Grid, &["a[0]=1,2"], &["a.0=1", "a.0=2"]),
        (SweepMode::Grid, &["p=\"a,b\",'c/d'"], &["p=a,b", "p=c-d"]),
        // Equal names get a number.
        (SweepMode::Grid, &["p=a/b,a:b,a_b"], &["p=a-b", "p=a-b_2", "p=a_b"]),
        (SweepMode::Grid, &["p=../x,.."], &["p=..-x", "p=.."]),
    ];
    for (mode, texts, expect) in cases {
        let names: Vec<_> = points(texts, order(*mode)).unwrap().into_iter().map(|point| point.name).collect();
        assert_eq!(names, *expect, "{texts:?}");
    }
    let long = format!("p={}", "x".repeat(300));
    assert!(points(&[&long], order(SweepMode::Grid)).unwrap()[0].name.len() <= 80);
}

#[test]
fn values_of_a_sweep_are_passed_as_typed() {
    let points = points(&["finetune.optim.lr=1e-4", "a.\"b.c\"=[1, \"x,y\"],null"], order(SweepMode::Grid)).unwrap();
    let sets: Vec<_> = points.into_iter().map(|point| point.sets).collect();
    assert_eq!(
        sets,
        [
            ["finetune.optim.lr=1e-4", "a.\"b.c\"=[1, \"x,y\"]"],
            ["finetune.optim.lr=1e-4", "a.\"b.c\"=null"]
        ]
    );
}

#[test]
fn a_random_sweep_draws_different_points_and_the_same_ones_for_a_seed() {
    let texts = ["a=1,2,3,4,5,6,7,8,9", "b=1,2,3,4,5,6,7,8,9"];
    let draw = |seed, samples| {
        let order = SweepOrder {
            mode: SweepMode::Random,
            samples: Some(samples),
            seed,
        };
        let names: Vec<_> = points(&texts, order).unwrap().into_iter().map(|point| point.name).collect();
        let different: std::collections::BTreeSet<_> = names.iter().cloned().collect();
        assert_eq!(different.len(), names.len());
        names
    };
    assert_eq!(draw(1, 5), draw(1, 5));
    assert_ne!(draw(1, 5), draw(2, 5));
    assert_eq!(draw(1, 5).len(), 5);
    // At most all points of the grid.
    assert_eq!(draw(3, 1000).len(), 81);
}

#[test]
fn an_invalid_sweep_is_refused() {
    let many = format!("a={}", vec!["1"; 101].join(","));
    let many_more = format!("b={}", vec!["1"; 101].join(","));
    let cases: &[(SweepMode, &[&str], &str)] = &[
        (SweepMode::Grid, &[], "needs at least one value"),
        (SweepMode::Grid, &["lr"], "="),
        (SweepMode::Grid, &["lr=1,,2"], "a value is missing here"),
        (SweepMode::Grid, &["lr+=1,2"], "only sets values"),
        (SweepMode::Grid, &["~lr=1,2"], "only sets values"),
        (SweepMode::Grid, &["lr[+]=1,2"], "only sets values"),
        (SweepMode::Grid, &["=1,2"], "the path is missing"),
        (SweepMode::Grid, &["a..b=1,2"], ""),
        (SweepMode::Grid, &["lr=[1,2"], ""),
        (SweepMode::Grid, &["lr=1", "lr=2"], "`lr` is swept twice"),
        (SweepMode::Zip, &["a=1,2", "b=1"], "these have 2, 1"),
        (SweepMode::Random, &["a=1,2"], "needs a number of points"),
        (SweepMode::Grid, &[&many, &many_more], "the sweep has 10201 points"),
        (SweepMode::Grid, &["a=\0"], ""),
    ];
    for (mode, texts, expect) in cases {
        let error = points(texts, order(*mode)).unwrap_err();
        assert!(error.contains(expect), "{texts:?}: {error}");
    }
}
