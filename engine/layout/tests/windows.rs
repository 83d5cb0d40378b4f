//! Rectangles of parameters.

use neva_layout::{Cut, Init, ParamSpec, Part, PartialSum, Stage, Window};

fn spec(shape: &[usize], cut: Cut) -> ParamSpec {
    ParamSpec {
        name: "weight".into(),
        shape: shape.to_vec(),
        init: Init::Zeros,
        cut,
        heads: None,
        stage: Stage::First,
        part: Part::Language,
        adapts: None,
        lora: None,
        partial_sum: PartialSum::Never,
        used: true,
    }
}

/// Returns the values of a window. The value at row `r` and column `c` is its index in the matrix: `r * columns + c`.
fn values(spec: &ParamSpec, window: &Window) -> Vec<usize> {
    let [_, columns] = spec.matrix();
    let row = |row: usize| window.columns.clone().map(move |column| row * columns + column);
    window.rows.clone().flat_map(row).collect()
}

#[test]
fn ranges_of_a_rank_are_rectangles_of_the_whole() {
    let cases = [
        (spec(&[6, 5], Cut::Replicate), 1),
        (spec(&[6, 5], Cut::Replicate), 2),
        (spec(&[6, 5], Cut::Column), 2),
        (spec(&[6, 10], Cut::Row), 2),
        (spec(&[100, 3], Cut::Vocab), 4),
        (spec(&[7], Cut::Replicate), 1),
        (spec(&[8], Cut::Column), 4),
        (spec(&[3, 2, 2, 2], Cut::Replicate), 1),
    ];
    for (spec, tp) in cases {
        for tp_rank in 0..tp {
            let held = values(&spec, &spec.window(tp_rank, tp));
            let local: usize = spec.local_shape(tp_rank, tp).iter().product();
            for start in 0..=local {
                for end in start..=local {
                    let windows = spec.windows_of(start..end, tp_rank, tp);
                    assert!(windows.len() <= 3, "{spec:?} {start}..{end}: {windows:?}");
                    let mut at = start;
                    let mut got = Vec::new();
                    for (offset, window) in &windows {
                        assert_eq!(*offset, at, "{spec:?} {start}..{end}: {windows:?}");
                        at += window.numel();
                        got.extend(values(&spec, window));
                    }
                    // Padding of a vocabulary is in no window.
                    let expected = &held[start.min(held.len())..end.min(held.len())];
                    assert_eq!(got, expected, "{spec:?}, rank {tp_rank} of {tp}, {start}..{end}");
                }
            }
        }
    }
}

#[test]
fn windows_intersect() {
    let window = |rows, columns| Window { rows, columns };
    let a = window(0..4, 2..6);
    assert_eq!(a.overlap(&window(3..9, 0..3)), Some(window(3..4, 2..3)));
    assert_eq!(a.overlap(&a), Some(a.clone()));
    for apart in [window(4..9, 2..6), window(0..4, 6..7), window(0..4, 0..2)] {
        assert_eq!(a.overlap(&apart), None, "{apart:?}");
    }
    assert_eq!((a.shape(), a.numel()), ([4, 4], 16));
}

#[test]
fn several_ranks_hold_the_same_head_if_there_are_more_ranks_than_heads() {
    let keys = ParamSpec {
        heads: Some(2),
        ..spec(&[8, 3], Cut::Column)
    };
    let rows = |tp: usize| -> Vec<_> { (0..tp).map(|rank| keys.window(rank, tp).rows).collect() };
    assert_eq!(keys.window(0, 1).rows, 0..8);
    assert_eq!(rows(2), [0..4, 4..8]);
    assert_eq!(rows(4), [0..4, 0..4, 4..8, 4..8]);
    assert_eq!([1, 2, 4, 8].map(|tp| keys.copies(tp)), [1, 1, 2, 4]);
    let queries = spec(&[8, 3], Cut::Column);
    assert_eq!([1, 2, 4].map(|tp| queries.copies(tp)), [1, 1, 1]);
    assert_eq!(spec(&[8, 3], Cut::Replicate).copies(4), 4);
}
