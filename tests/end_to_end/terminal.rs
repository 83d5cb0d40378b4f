//! Runs on a terminal: Ctrl-C beside `tee`, a closed window, `nohup`, Ctrl-Z and `fg`, colours.

use crate::killed::{arguments, children, new_run};
use neva_tests::{launcher, program, wait_for};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A terminal with a shell. Dropping it closes the window.
struct Terminal {
    /// `None` once the window is closed. No other handle keeps it open.
    window: Option<Arc<File>>,
    shell: Child,
    screen: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    fn open() -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let size = Winsize {
            ws_row: 30,
            ws_col: 120,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&master, size).unwrap();
        let end = |fd: &OwnedFd| Stdio::from(fd.try_clone().unwrap());
        let shell = launcher(Path::new(env!("CARGO_BIN_EXE_on-terminal")), &["sh", "-i"])
            .env("PS1", "$ ")
            .env("TERM", "xterm")
            .env_remove("ENV")
            .env_remove("NO_COLOR")
            .stdin(end(&slave))
            .stdout(end(&slave))
            .stderr(end(&slave))
            .spawn()
            .unwrap();
        // So that its reader sees that the window was closed.
        rustix::io::ioctl_fionbio(&master, true).unwrap();
        let window = Arc::new(File::from(master));
        let screen = Arc::<Mutex<Vec<u8>>>::default();
        let (reader, shown) = (Arc::downgrade(&window), Arc::clone(&screen));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Some(window) = reader.upgrade() {
                match (&*window).read(&mut bytes) {
                    Ok(read) => shown.lock().unwrap().extend_from_slice(&bytes[..read]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        drop(window);
                        std::thread::park_timeout(Duration::from_millis(2));
                    }
                    // The last program on the terminal has ended.
                    Err(_) => return,
                }
            }
        });
        Self {
            window: Some(window),
            shell,
            screen,
        }
    }

    fn press(&mut self, keys: &str) {
        self.window.as_deref().unwrap().write_all(keys.as_bytes()).unwrap();
    }

    /// Types a line once the shell is ready.
    fn type_line(&mut self, line: &str) {
        self.press(&format!("{line}\n"));
    }

    /// Closes the window: the kernel sends SIGHUP to its programs.
    fn close(&mut self) {
        self.window = None;
    }

    fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
        if std::thread::panicking() {
            let _ = writeln!(std::io::stderr(), "--- the terminal\n{}", self.screen());
        }
    }
}

/// Returns a command line that trains in `dir`.
fn command(dir: &Path, more: &[&str]) -> String {
    let words = arguments(dir, more);
    let quoted: Vec<_> = words.iter().map(|word| format!("'{word}'")).collect();
    format!("{} {}", program("neva-run").display(), quoted.join(" "))
}

/// Returns the number of metrics lines of the run in `dir`.
fn lines(dir: &Path) -> usize {
    let read = |run: std::path::PathBuf| fs::read_to_string(run.join("metrics.jsonl")).ok();
    new_run(dir, 0).and_then(read).map_or(0, |text| text.lines().count())
}

/// Waits for the run's report.
fn report(dir: &Path) -> Value {
    let text = wait_for("a report", || fs::read(new_run(dir, 0)?.join("report.json")).ok());
    serde_json::from_slice(&text).unwrap()
}

/// Returns the processes of the run in `dir`.
fn ranks(dir: &Path) -> Vec<String> {
    let mark = format!("NEVA_JOB={}", dir.canonicalize().unwrap().display());
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let of_run = processes.filter(|process| {
        let environment = fs::read(process.path().join("environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|variable| variable.starts_with(mark.as_bytes()))
    });
    of_run.map(|process| process.file_name().to_string_lossy().into_owned()).collect()
}

fn is_stopped(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim().starts_with('T'))
}

fn saved(report: &Value) -> bool {
    report["checkpoint"]
        .as_str()
        .is_some_and(|path| Path::new(path).join("checkpoint.json").is_file())
}

const LONG: &str = "finetune.trainer.max_steps=100000";

#[test]
fn control_c_with_tee_saves_and_ends_the_run() {
    for more in [&[LONG][..], &[LONG, "num_gpus_per_node=2"]] {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let mut terminal = Terminal::open();
        let train = command(dir.path(), more);
        let (code, log) = (at("code"), at("log"));
        terminal.type_line(&format!(
            "(trap : INT; {train}; echo $? > {}) 2>&1 | tee {}",
            code.display(),
            log.display()
        ));
        wait_for("steps", || (lines(dir.path()) > 10).then_some(()));
        terminal.press("\u{3}");
        let report = report(dir.path());
        assert_eq!(report["stopped"], "SIGINT");
        assert!(saved(&report), "{report}");
        let code = wait_for("the launcher's end", || {
            fs::read_to_string(&code).ok().filter(|code| code.ends_with('\n'))
        });
        assert_eq!(code, "1\n");
        wait_for("the ranks' end", || ranks(dir.path()).is_empty().then_some(()));
    }
}

#[test]
fn a_closed_window_saves_and_ends_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let mut terminal = Terminal::open();
    terminal.type_line(&command(dir.path(), &[LONG]));
    wait_for("steps", || (lines(dir.path()) > 10).then_some(()));
    terminal.close();
    let report = report(dir.path());
    assert_eq!(report["stopped"], "SIGHUP");
    assert!(saved(&report), "{report}");
    wait_for("the ranks' end", || ranks(dir.path()).is_empty().then_some(()));
}

#[test]
fn nohup_outlives_its_window() {
    let dir = tempfile::tempdir().unwrap();
    let mut terminal = Terminal::open();
    let (train, out) = (command(dir.path(), &[]), dir.path().join("out"));
    terminal.type_line(&format!("nohup {train} > {} 2>&1 &", out.display()));
    wait_for("steps", || (lines(dir.path()) > 10).then_some(()));
    let running = ranks(dir.path());
    assert_eq!(running.len(), 1, "{running:?}");
    terminal.close();
    // The kernel also sends the SIGHUP of the closed window to the rank.
    let report = report(dir.path());
    assert_eq!(
        (&report["stopped"], report["steps"].as_u64()),
        (&Value::Null, Some(400)),
        "{report}"
    );
}

#[test]
fn control_z_stops_the_ranks_and_fg_continues_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut terminal = Terminal::open();
    terminal.type_line(&command(dir.path(), &[LONG, "num_gpus_per_node=2"]));
    wait_for("steps", || (lines(dir.path()) > 10).then_some(()));
    let shell = terminal.shell.id();
    let launcher = wait_for("the launcher", || children(shell).pop());
    for _ in 0..2 {
        let running = ranks(dir.path());
        assert_eq!(running.len(), 2, "{running:?}");
        terminal.press("\u{1a}");
        wait_for("all to stop", || {
            let all = running.iter().chain([&launcher]);
            all.into_iter().all(|pid| is_stopped(pid)).then_some(())
        });
        let before = lines(dir.path());
        terminal.type_line("fg");
        wait_for("more steps", || (lines(dir.path()) > before + 10).then_some(()));
    }
    terminal.press("\u{3}");
    let report = report(dir.path());
    assert_eq!(report["stopped"], "SIGINT");
    wait_for("the ranks' end", || ranks(dir.path()).is_empty().then_some(()));
}

/// Returns the screen after an error, `--help` and a short run.
fn shown(environment: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let mut terminal = Terminal::open();
    let neva_run = program("neva-run").display().to_string();
    let train = command(
        dir.path(),
        &["finetune.trainer.max_steps=3", "finetune.trainer.val_check_interval=3"],
    );
    terminal.type_line(&format!("export {environment}"));
    terminal.type_line(&format!(
        "{neva_run} show nowhere.yaml; {neva_run} --help; {neva_run} -vv --nonsense; {train}"
    ));
    let _ = report(dir.path());
    terminal.type_line("echo 'the 'end");
    wait_for("the end", || terminal.screen().contains("the end").then_some(()));
    let screen = terminal.screen();
    assert!(screen.contains("nowhere.yaml") && screen.contains("done: 3 steps"), "{screen}");
    screen
}

#[test]
fn colours_and_cursor_movements_follow_the_environment() {
    let colour = |screen: &str| {
        let sequences = screen.split("\u{1b}[").skip(1);
        sequences
            .filter(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').starts_with('m'))
            .count()
    };
    assert!(colour(&shown("TERM=xterm")) > 0, "colours are detected");
    let without = shown("NO_COLOR=1");
    assert_eq!(colour(&without), 0, "{without:?}");
    // Libraries assume colours on a CI machine.
    let dumb = shown("TERM=dumb CI=true");
    assert!(!dumb.contains('\u{1b}'), "{dumb:?}");
}
