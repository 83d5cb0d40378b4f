//! Output on a terminal, 100 characters wide, and elsewhere.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use indicatif::{InMemoryTerm, ProgressDrawTarget, TermLike as _};

use super::{Console, lines::Lines};
use crate::StepLine;

fn step(done: u64) -> StepLine {
    StepLine {
        done,
        total: 20,
        loss: Some(8.0 / (done + 1) as f64),
        lr: 1e-4,
        grad_norm: Some(0.5),
        tokens_per_second: 4096.0,
        peak_memory_gib: 2.5,
    }
}

fn terminal() -> (Console, InMemoryTerm) {
    let terminal = InMemoryTerm::new(12, 100);
    let target = ProgressDrawTarget::term_like(Box::new(terminal.clone()));
    (Console::on(target), terminal)
}

/// Returns the screen. A bar is written as its number of full twentieths, without the remaining time and the space after
/// it, which differ between runs.
fn screen(terminal: &InMemoryTerm) -> Vec<String> {
    const PARTS: [char; 3] = ['━', '╸', '─'];
    let text = terminal.contents();
    text.lines()
        .map(|line| {
            let Some((line, left)) = line.split_once(" GiB  ").filter(|_| line.contains(PARTS)) else {
                return line.to_owned();
            };
            assert!(left.ends_with(" left"), "{line}");
            let [full, half, empty] = PARTS.map(|part| line.matches(part).count());
            let all = full + half + empty;
            let twentieths = (20 * (2 * full + half) + all) / (2 * all);
            let [begin, end] = [line.split(PARTS).next(), line.rsplit(PARTS).next()].map(Option::unwrap);
            format!("{begin}<{twentieths}>{end}")
        })
        .collect()
}

/// Returns every way to split `bytes` in two, and single bytes.
fn cuts(bytes: &[u8]) -> Vec<Vec<&[u8]>> {
    let twos = (0..=bytes.len()).map(|at| vec![&bytes[..at], &bytes[at..]]);
    twos.chain([bytes.chunks(1).collect()]).collect()
}

#[track_caller]
fn check(output: &str, expect: &[&str]) {
    for chunks in cuts(output.as_bytes()) {
        let (mut console, terminal) = terminal();
        chunks.iter().for_each(|chunk| console.write(chunk));
        drop(console);
        assert_eq!(screen(&terminal), expect, "{chunks:?}");
    }
}

#[test]
fn steps_become_a_bar_below_everything_else() {
    check("", &[]);
    check("loading\n\ngrüße 猫\r\n", &["loading", "", "grüße 猫"]);
    // Incomplete, overwritten, almost a step.
    check("no end", &["no end"]);
    check("10 %\r20 %\n", &["20 %"]);
    check("step 3/20  loss x\n", &["step 3/20  loss x"]);
    let bar = "step 5/20 <5> loss 1.3333  lr 1.000e-4  4096 tokens/s  2.50";
    let output = format!("loading\n{}\n{}\nsaving 猫\n{}\n", step(3), step(4), step(5));
    check(&output, &["loading", "saving 猫", bar]);
    // The last step may be incomplete.
    check(output.trim_end(), &["loading", "saving 猫", bar]);
}

#[test]
fn invalid_utf8_is_replaced() {
    // The terminal of these tests would skip the character.
    let mut found = Vec::new();
    Lines::default().push(b"a\xffb\n", |line| found.push(line.to_owned()));
    assert_eq!(found, ["a\u{fffd}b"]);
}

#[test]
fn a_line_is_shown_when_it_ends_or_grows_too_long() {
    let (mut console, terminal) = terminal();
    console.write(b"begun");
    assert_eq!(screen(&terminal), [""; 0]);
    console.write(&[b'.'; 70_000]);
    assert!(terminal.contents().contains("....."));
}

#[test]
fn the_bar_moves_and_stays() {
    let (mut console, terminal) = terminal();
    console.line(&step(10));
    assert_eq!(screen(&terminal), ["step 10/20 <10> loss 0.7273  lr 1.000e-4  4096 tokens/s  2.50"]);
    console.line(&step(20));
    let last = screen(&terminal);
    assert_eq!(last, ["step 20/20 <20> loss 0.3810  lr 1.000e-4  4096 tokens/s  2.50"]);
    drop(console);
    assert_eq!(screen(&terminal), last);
}

#[test]
fn a_step_without_labels_shows_no_number() {
    let (mut console, terminal) = terminal();
    console.line(&StepLine {
        loss: None,
        grad_norm: None,
        ..step(10)
    });
    assert_eq!(screen(&terminal), ["step 10/20 <10> loss none  lr 1.000e-4  4096 tokens/s  2.50"]);
}

#[test]
fn the_bar_makes_room_for_others() {
    let (mut console, terminal) = terminal();
    console.suspend(|| terminal.write_line("before").unwrap());
    console.line(&step(10));
    console.suspend(|| {
        assert_eq!(screen(&terminal), ["before"]);
        terminal.write_line("a remark").unwrap();
    });
    let bar = "step 10/20 <10> loss 0.7273  lr 1.000e-4  4096 tokens/s  2.50";
    assert_eq!(screen(&terminal), ["before", "a remark", bar]);
}

/// Output of a console without a terminal.
#[derive(Clone, Default)]
struct Out(Arc<Mutex<Vec<u8>>>);

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn without_a_terminal_output_is_passed_through() {
    let out = Out::default();
    let mut console = Console::plain(Box::new(out.clone()));
    console.write(b"a\xff\r");
    assert_eq!(*out.0.lock().unwrap(), b"a\xff\r");
    console.write(b"\n");
    console.line(&step(3));
    drop(console);
    let line = "step 3/20  loss 2.0000  lr 1.000e-4  grad norm 0.500  4096 tokens/s  2.50 GiB\n";
    assert_eq!(*out.0.lock().unwrap(), [b"a\xff\r\n", line.as_bytes()].concat());
}
