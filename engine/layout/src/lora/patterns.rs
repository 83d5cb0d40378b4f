//! Patterns for names of modules: NeMo's wildcards, and PEFT's regular expressions for the end of a name.

use fancy_regex::Regex;
use neva_schemas::Problem;

/// Compiled patterns of one setting.
#[derive(Debug)]
pub struct Patterns {
    patterns: Vec<Pattern>,
}

#[derive(Debug)]
struct Pattern {
    /// The last component of a name that matches, whatever the expression.
    component: Option<String>,
    regex: Regex,
}

impl Patterns {
    /// Compiles patterns by NeMo's rule: a pattern matches a name whose last component it is, or, with `*` for `(.*)`,
    /// as a regular expression for the full name. A dot is not escaped, so it matches any character.
    ///
    /// # Errors
    /// A pattern is no regular expression. `path` is the path of the setting.
    pub fn of_modules(patterns: &[String], path: &str) -> Result<Self, Vec<Problem>> {
        let compile = |pattern: &String| {
            let regex = compile(&format!(r"\A(?:^{}$)", pattern.replace('*', "(.*)")), pattern, path)?;
            Ok(Pattern {
                component: Some(pattern.clone()),
                regex,
            })
        };
        collect(patterns.iter().map(compile))
    }

    /// Compiles patterns by PEFT's rule for `rank_pattern` and `alpha_pattern`: a regular expression for the last
    /// components of a name.
    ///
    /// # Errors
    /// A pattern is no regular expression. `path` is the path of the setting.
    pub fn of_ends<'a>(patterns: impl Iterator<Item = &'a String>, path: &str) -> Result<Self, Vec<Problem>> {
        let compile = |pattern: &String| {
            let regex = compile(&format!(r"\A(?:(.*\.)?({pattern})$)"), pattern, path)?;
            Ok(Pattern { component: None, regex })
        };
        collect(patterns.map(compile))
    }

    /// Returns the index of the first pattern that matches.
    pub fn first(&self, name: &str) -> Option<usize> {
        self.all(name).next()
    }

    /// Returns the indices of all patterns that match.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = usize> + 'a {
        let last = name.rsplit('.').next();
        let hits = self.patterns.iter().enumerate().filter(move |(_, pattern)| {
            // An expression that takes too many steps matches nothing.
            (pattern.component.is_some() && pattern.component.as_deref() == last) || pattern.regex.is_match(name).unwrap_or(false)
        });
        hits.map(|(index, _)| index)
    }
}

fn collect(compiled: impl Iterator<Item = Result<Pattern, Problem>>) -> Result<Patterns, Vec<Problem>> {
    let (mut patterns, mut problems) = (Vec::new(), Vec::new());
    for pattern in compiled {
        match pattern {
            Ok(pattern) => patterns.push(pattern),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() {
        Ok(Patterns { patterns })
    } else {
        Err(problems)
    }
}

fn compile(regex: &str, pattern: &str, path: &str) -> Result<Regex, Problem> {
    Regex::new(regex).map_err(|error| {
        Problem::error(path, format!("{pattern:?} is no regular expression: {error}"))
            .help("write a name, or a wildcard such as *.language_model.*.linear_qkv")
    })
}

/// Matches a wildcard pattern greedily with one backtracking point: linear in the product of the lengths.
pub(crate) fn wildcard(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        if p < pattern.len() && pattern[p] == b'*' {
            retry = Some((p + 1, t));
            p += 1;
        } else if p < pattern.len() && pattern[p] == text[t] {
            (p, t) = (p + 1, t + 1);
        } else if let Some((after_star, from)) = retry {
            retry = Some((after_star, from + 1));
            (p, t) = (after_star, from + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}
