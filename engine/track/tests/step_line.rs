//! Step lines are parsed as written, and other lines are not step lines.

use neva_track::StepLine;

#[test]
fn step_lines_are_parsed_as_written() {
    #[track_caller]
    fn check(line: &str) {
        let step: StepLine = line.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!(step.to_string(), line.trim_end());
    }
    check("step 1/100  loss 7.6691  lr 1.061e-5  grad norm 0.031  4597 tokens/s  2.50 GiB");
    check("step 2/100  loss none  lr 1.061e-5  grad norm none  4597 tokens/s  2.50 GiB");
    check("step 100/100  loss NaN  lr 0.000e0  grad norm inf  0 tokens/s  0.00 GiB\r\n");
}

#[test]
fn other_lines_are_refused() {
    for line in [
        "",
        "step",
        "step 1/100",
        "done: 5 steps, loss 7.5000 -> 0.2500",
        "step x/100  loss 7.6691  lr 1.061e-5  grad norm 0.031  4597 tokens/s  2.50 GiB",
        "step 1/100  loss 7.6691  lr 1.061e-5  grad norm 0.031  4597 tokens/s  2.50 GiB  more",
        "step 1/100  loss 7.6691  lr none  grad norm 0.031  4597 tokens/s  2.50 GiB",
        "step 1/100  loss 7.6691  lr 1.061e-5  grad norm 0.031  none tokens/s  2.50 GiB",
        " step 1/100  loss 7.6691  lr 1.061e-5  grad norm 0.031  4597 tokens/s  2.50 GiB",
    ] {
        assert!(line.parse::<StepLine>().is_err(), "{line}");
    }
}
