//! Diagnoses failures of the dynamic loader from its output.

/// A reason why a program's libraries were not loaded.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LoaderProblem {
    /// A library is missing.
    Missing,
    /// A library does not fit into the memory limit of the process; the loader's message.
    Memory(String),
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

impl LoaderProblem {
    /// Finds the problem from the exit code and the output of a program.
    pub fn find<'a>(code: Option<i32>, mut output: impl Iterator<Item = &'a str>) -> Option<Self> {
        let message = output.find_map(|line| line.split_once(LOADER)).map(|(_, message)| message.trim());
        match message {
            Some(message) if NO_MEMORY.iter().any(|words| message.contains(words)) => Some(Self::Memory(message.to_owned())),
            Some(_) => Some(Self::Missing),
            None => (code == Some(127)).then_some(Self::Missing),
        }
    }

    /// Returns the error message.
    pub fn message(&self) -> String {
        match self {
            Self::Missing => "libtorch was not found".to_owned(),
            Self::Memory(message) => format!("libtorch does not fit into the memory limit of a process: {message}"),
        }
    }

    /// Returns a suggested fix.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Missing => "run `make setup`",
            Self::Memory(_) => "raise the limit with `ulimit -v unlimited`, or request more memory",
        }
    }
}
