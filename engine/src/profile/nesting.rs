//! Nesting of the spans of a thread.

use crate::profiler::{Details, Recorded, Span};

/// A span with the number of spans around it, and the nearest of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Nested<'a> {
    pub(super) span: &'a Span,
    /// Index of the span around it, in the same list.
    pub(super) parent: Option<usize>,
}

/// Returns the spans of a thread, each after the spans around it.
pub(super) fn nested(recorded: &Recorded, thread: usize) -> Vec<Nested<'_>> {
    // Backwards, since a span ends after those within it: the sort keeps the order of equal ones.
    let mut spans: Vec<_> = recorded.spans.iter().rev().filter(|span| span.thread == thread).collect();
    // A span that encloses another starts earlier, or ends later.
    spans.sort_by_key(|span| (span.start, std::cmp::Reverse(span.end)));
    let mut open: Vec<usize> = Vec::new();
    let mut found: Vec<Nested<'_>> = Vec::with_capacity(spans.len());
    for span in spans {
        while open
            .last()
            .is_some_and(|last| found[*last].span.end <= span.start && found[*last].span.end < span.end)
        {
            open.pop();
        }
        found.push(Nested {
            span,
            parent: open.last().copied(),
        });
        open.push(found.len() - 1);
    }
    found
}

/// Returns the thread that runs the steps.
pub(super) fn step_thread(recorded: &Recorded) -> Option<usize> {
    let step = recorded.spans.iter().find(|span| matches!(span.details, Details::Step(_)));
    step.map(|span| span.thread)
}
