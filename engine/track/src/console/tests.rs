//! What stands on a terminal, and what comes out elsewhere. A terminal is 100 characters wide here.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use indicatif::{InMemoryTerm, ProgressDrawTarget, TermLike as _};

use super::{Console, lines::Lines};
use crate::StepLine;

fn step(done: u64) -> StepLine {
    StepLine {
        done,
        total: 20,
        loss: 8.0 / (done + 1) as f64,
        lr: 1e-4,
        grad_norm: 0.5,
        tokens_per_second: 4096.0,
        peak_memory_gib: 2.5,
    }
}

fn terminal() -> (Console, InMemoryTerm) {
    let terminal = InMemoryTerm::new(12, 100);
    let target = ProgressDrawTarget::term_like(Box::new(terminal.clone()));
    (Console::on(target), terminal)
}

/// What stands there. A bar is written as how many twentieths of it are full, and the time that is left is taken
/// off: no two runs share it, nor the room that it leaves.
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

/// Every way to cut `bytes` into two, and single bytes.
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
    // No end, written over, not UTF-8, not quite a step.
    check("no end", &["no end"]);
    check("10 %\r20 %\n", &["20 %"]);
    check("step 3/20  loss x\n", &["step 3/20  loss x"]);
    let bar = "step 5/20 <5> loss 1.3333  lr 1.000e-4  4096 tokens/s  2.50";
    let output = format!("loading\n{}\n{}\nsaving 猫\n{}\n", step(3), step(4), step(5));
    check(&output, &["loading", "saving 猫", bar]);
    // The last step need not have an end.
    check(output.trim_end(), &["loading", "saving 猫", bar]);
}

#[test]
fn bytes_that_are_no_text_are_shown_as_such() {
    // The terminal of these tests would pass over the character.
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

/// What a console that is no terminal wrote.
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
fn elsewhere_output_is_passed_on_as_it_is() {
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
