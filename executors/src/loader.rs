//! Diagnoses from its output why a program did not start.

/// A reason why a program did not start.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LoaderProblem {
    /// A library is missing.
    Missing,
    /// A library does not fit into the memory limit of the process; the loader's message.
    Memory(String),
    /// The program itself is missing; the shell's message.
    NoProgram(String),
}

/// Prefix of the loader's error message.
const LOADER: &str = "error while loading shared libraries: ";

/// Messages of the loader when the memory limit is exceeded, as with `ulimit -v`.
const NO_MEMORY: [&str; 4] = [
    "failed to map segment",
    "annot allocate memory",
    "out of memory",
    "cannot map zero-fill",
];

/// Ends of a shell's message about a program that is missing.
const NO_PROGRAM: [&str; 2] = ["not found", "No such file or directory"];

impl LoaderProblem {
    /// Finds the problem from the exit code and the output of a program.
    pub fn find<'a>(code: Option<i32>, output: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut last = "";
        for line in output {
            if let Some((_, message)) = line.split_once(LOADER) {
                let message = message.trim();
                let is_memory = NO_MEMORY.iter().any(|words| message.contains(words));
                return Some(if is_memory {
                    Self::Memory(message.to_owned())
                } else {
                    Self::Missing
                });
            }
            last = line.trim_end();
        }
        let is_program = NO_PROGRAM.iter().any(|words| last.ends_with(words));
        (code == Some(127)).then(|| {
            if is_program {
                Self::NoProgram(last.to_owned())
            } else {
                Self::Missing
            }
        })
    }

    /// Returns the error message.
    pub fn message(&self) -> String {
        match self {
            Self::Missing => "libtorch was not found".to_owned(),
            Self::Memory(message) => format!("libtorch does not fit into the memory limit of a process: {message}"),
            Self::NoProgram(message) => format!("the rank program was not found: {message}"),
        }
    }

    /// Returns a suggested fix.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Missing => "run `make setup`",
            Self::Memory(_) => "raise the limit with `ulimit -v unlimited`, or request more memory",
            Self::NoProgram(_) => "set the executor's `rank_program` to its path where the ranks run",
        }
    }
}
