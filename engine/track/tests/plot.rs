//! Plots of runs: parsing and drawing. Whole plots are compared by `run/tests/cli/plot.md`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};

use neva_track::plot::{Curves, Metrics, Series, names, svg};
use proptest::{collection, prelude::*};

fn curves(name: &str, metrics: Metrics) -> Curves {
    Curves {
        name: name.to_owned(),
        metrics,
    }
}

fn plot_of(loss: &[f64]) -> String {
    let loss = (0..).zip(loss.iter().copied().map(Some)).collect();
    svg(&[curves(
        "",
        Metrics {
            loss,
            ..Metrics::default()
        },
    )])
}

/// Returns the points of the first curve, as written.
fn points(svg: &str) -> Vec<&str> {
    let lines = svg.lines().find(|line| line.contains("stroke-linejoin"));
    let data = lines.and_then(|line| line.split('"').nth(1)).unwrap_or_default();
    data.split(['M', 'L']).skip(1).collect()
}

/// Returns the labels of the first chart's values, upwards.
fn labels(svg: &str) -> String {
    let chart = svg.split("</g>").next().unwrap();
    let labels = chart.lines().filter(|line| line.contains("text-anchor=\"end\""));
    let texts = labels.map(|line| line.split(['<', '>']).nth(2).unwrap());
    texts.collect::<Vec<_>>().join(" ")
}

#[test]
fn axes_have_round_labels() {
    #[track_caller]
    fn check(loss: &[f64], expect: &str) {
        assert_eq!(labels(&plot_of(loss)), expect, "{loss:?}");
    }
    check(&[0.0, 1.0], "0 0.2 0.4 0.6 0.8 1.0");
    check(&[2.5, 2.5], "2.3 2.4 2.5 2.6 2.7");
    check(&[0.0, 0.0], "0 0.2 0.4 0.6 0.8 1.0");
    check(&[-1.0, -1.0], "-1.10 -1.05 -1.00 -0.95 -0.90");
    check(&[0.0, 1e-4], "0 2e-5 4e-5 6e-5 8e-5 1e-4");
    check(&[-3e6, 5e6], "-2e6 0 2e6 4e6");
    check(
        &[1e9, 1e9 + 10.0],
        "1e9 1.000000002e9 1.000000004e9 1.000000006e9 1.000000008e9 1.00000001e9",
    );
    // A decade is linear, more is logarithmic, and zero has no logarithm.
    check(&[1.0, 10.0], "2 4 6 8 10");
    check(&[1.0, 11.0], "1 2 5 10");
    check(&[0.0, 11.0], "0 2 4 6 8 10");
    check(&[0.03, 8.0], "0.05 0.1 0.2 0.5 1 2 5 10");
    check(&[1e-6, 1e6], "1e-6 1e-4 0.01 1 100 10000 1e6");
    // Values that cannot be drawn do not extend the axis.
    check(&[0.0, f64::NAN, 1.0, f64::INFINITY, f64::MAX], "0 0.2 0.4 0.6 0.8 1.0");
    check(&[f64::NAN], "");
}

#[test]
fn missing_values_interrupt_a_curve() {
    #[track_caller]
    fn check(loss: &[f64], lines: usize, dots: usize) {
        let svg = plot_of(loss);
        let data = svg.lines().find(|line| line.contains("stroke-linejoin")).unwrap_or_default();
        assert_eq!(
            (data.matches('M').count(), svg.matches("<circle").count()),
            (lines, dots),
            "{loss:?}"
        );
    }
    let gap = f64::NAN;
    check(&[], 0, 0);
    check(&[gap, gap], 0, 0);
    check(&[1.0], 0, 1);
    check(&[1.0, 2.0, 3.0], 1, 0);
    check(&[gap, 1.0, 2.0, gap, gap, 3.0, 4.0, gap], 2, 0);
    check(&[1.0, 2.0, gap, 3.0, gap, f64::INFINITY], 1, 1);
}

#[test]
fn runs_are_named_by_their_differences() {
    #[track_caller]
    fn check(folders: &[&str], expect: &[&str]) {
        let folders: Vec<_> = folders.iter().map(PathBuf::from).collect();
        assert_eq!(names(&folders), expect, "{folders:?}");
    }
    check(&[], &[]);
    check(&["/r/photos/1"], &["1"]);
    check(&["/r/photos/1", "/r/photos/2"], &["1", "2"]);
    check(&["/r/photos/1", "/r/charts/1"], &["photos", "charts"]);
    check(&["/r/photos/1", "/r/charts/2"], &["photos/1", "charts/2"]);
    check(&["/r/a", "/r/a/b"], &["a", "a/b"]);
    check(&["/r/a", "/r/a"], &["a", "a"]);
}

#[test]
fn invalid_lines_are_reported() {
    let read = |text: &str| Metrics::parse(text.as_bytes(), Path::new("m.jsonl"));
    // Step 1 occurs twice, as after a resume; blank lines and other keys are skipped.
    let metrics =
        read("{\"step\":0,\"reduced_train_loss\":2,\"lr\":null}\n\n{\"step\":1,\"grad_norm\":9}\n{\"step\":1,\"grad_norm\":3,\"x\":[]}");
    let expect = Metrics {
        loss: Series::from([(0, Some(2.0))]),
        lr: Series::from([(0, None)]),
        grad_norm: Series::from([(1, Some(3.0))]),
        ..Metrics::default()
    };
    assert_eq!(metrics.unwrap(), expect);

    #[track_caller]
    fn check(text: &str, expect: &str) {
        let error = Metrics::parse(text.as_bytes(), Path::new("m.jsonl")).unwrap_err();
        assert_eq!(error.to_string(), expect, "{text}");
    }
    // The end of the file of a killed or active run.
    for half in ["{\"ste", "{\"step\":1,\"grad_norm\":", "{\"step\":1,\"grad_norm\":9", "{"] {
        let metrics = read(&format!("{{\"step\":0,\"lr\":1}}\n{half}")).unwrap();
        assert_eq!((metrics.lr.len(), metrics.grad_norm.len()), (1, 0), "{half}");
        check(half, "cannot draw m.jsonl: it holds no metrics");
        let error = read(&format!("{half}\n{{\"step\":0}}\n")).unwrap_err();
        assert!(
            error.to_string().starts_with("cannot draw m.jsonl: line 1"),
            "only the last line may be half: {error}"
        );
    }
    check("", "cannot draw m.jsonl: it holds no metrics");
    check("{\"step\":0,\"x\":1}", "cannot draw m.jsonl: it holds no metrics");
    check("{\"step\":0}\n{}", "cannot draw m.jsonl: line 2: `step` is not a whole number");
    check("{\"step\":-1}", "cannot draw m.jsonl: line 1: `step` is not a whole number");
    check("\n{\"step\":0,\"lr\":\"x\"}", "cannot draw m.jsonl: line 2: `lr` is not a number");
    check(
        "[0]",
        "cannot draw m.jsonl: line 1: column 0: invalid type: sequence, expected a map",
    );
}

#[test]
fn validations_are_circles_on_the_training_curve() {
    /// Circles of the chart and of its key; `validation` in the key.
    #[track_caller]
    fn check(text: &str, expect: (usize, bool)) {
        let metrics = Metrics::parse(text.as_bytes(), Path::new("m.jsonl")).unwrap();
        let plot = svg(&[curves("", metrics)]);
        assert_eq!((plot.matches("<circle").count(), plot.contains(">validation<")), expect, "{text}");
    }
    let training: String = (0..9)
        .map(|step| format!("{{\"step\":{step},\"reduced_train_loss\":2.5}}\n"))
        .collect();
    let validations = |count: u64| -> String { (0..count).map(|step| format!("{{\"step\":{step},\"val_loss\":3.5}}\n")).collect() };
    check(&training, (0, false));
    check(&format!("{training}{}", validations(2)), (3, true));
    // A run with only validations, and a line with neither.
    check(&format!("{}{{\"step\":9,\"test\":1}}", validations(1)), (2, true));
    // Validations without a labelled token.
    check(&format!("{training}{{\"step\":9,\"val_loss\":null}}"), (0, false));
    // Too many circles, which would overlap.
    check(&validations(400), (1, true));
}

#[test]
fn several_runs_have_a_legend() {
    let run = |name: &str| curves(name, Metrics::default());
    assert!(!svg(&[run("one")]).contains(">one<"));
    let both = svg(&[run("a & <b>"), run(&format!("{}end", "x".repeat(200)))]);
    assert!(both.contains(">a &amp; &lt;b&gt;</text>"), "{both}");
    assert!(both.contains(&format!(">…{}end</text>", "x".repeat(97))), "{both}");
}

/// Returns the tags of a plot, without the text between them.
fn tags(svg: &str) -> Vec<&str> {
    svg.split('<').map(|tag| tag.split('>').next().unwrap_or_default()).collect()
}

/// Returns every number in attributes with coordinates.
fn coordinates(svg: &str) -> Vec<f64> {
    let attributes = tags(svg).into_iter().flat_map(|tag| {
        let mut parts = tag.split('"');
        std::iter::from_fn(move || Some((parts.next()?.trim(), parts.next()?)))
    });
    let placing =
        attributes.filter(|(name, _)| ["x=", "y=", "cx=", "cy=", "d=", "height="].contains(&name.split(' ').next_back().unwrap()));
    placing
        .flat_map(|(_, value)| value.split(['M', 'L', 'H', 'V', 'h', ' ']))
        .filter(|number| !number.is_empty() && !number.ends_with('%'))
        .map(|number| number.parse().unwrap_or(f64::NAN))
        .collect()
}

fn any_series() -> impl Strategy<Value = Series> {
    let value = prop_oneof![any::<f64>(), -1e3..1e3, Just(f64::MAX), Just(5e-324), Just(0.0)];
    collection::btree_map(prop_oneof![any::<u64>(), 0..50_u64], proptest::option::of(value), 0..40)
}

proptest! {
    #[test]
    fn all_coordinates_are_inside_the_plot(
        runs in collection::vec((any::<String>(), any_series(), any_series(), any_series(), any_series()), 0..4),
    ) {
        let runs: Vec<_> = runs
            .into_iter()
            .map(|(name, loss, val_loss, lr, grad_norm)| Curves { name, metrics: Metrics { loss, val_loss, lr, grad_norm } })
            .collect();
        let plot = svg(&runs);
        for place in coordinates(&plot) {
            prop_assert!((-1.0..=900.0).contains(&place), "{place} in\n{plot}");
        }
        // Names add no tags.
        let unnamed: Vec<_> = runs.into_iter().map(|run| curves("", run.metrics)).collect();
        let unnamed = svg(&unnamed);
        prop_assert_eq!(tags(&plot), tags(&unnamed));
    }

    #[test]
    fn thinning_keeps_extremes(noise in collection::vec(0.0..1.0, 3000..9000), high in 0..3000_u64, low in 0..3000_u64) {
        prop_assume!(high != low);
        // The learning rate fixes the range of steps.
        let lr = Series::from([(0, Some(1.0)), (noise.len() as u64 - 1, Some(1.0))]);
        let extremes = Series::from([(high, Some(2.0)), (low, Some(-1.0))]);
        let mut all: Series = (0..).zip(noise.into_iter().map(Some)).collect();
        all.extend(&extremes);
        let draw = |loss: Series| svg(&[curves("", Metrics { loss, lr: lr.clone(), ..Metrics::default() })]);
        let (all, extremes) = (draw(all), draw(extremes));
        let kept = points(&all);
        prop_assert!(kept.len() <= 4 * 785, "{} points", kept.len());
        prop_assert_eq!(points(&extremes).len(), 2);
        for extreme in points(&extremes) {
            prop_assert!(kept.contains(&extreme), "{} is lost", extreme);
        }
    }
}
