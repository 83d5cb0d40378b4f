//! Numbers of records that are taken with a change.

use std::ops::AddAssign;

/// Numbers of records that are taken with a change, most of them as LLaVA's own loader takes them. A caller logs
/// [`sentences`](Self::sentences), so that nothing changes silently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordCounts {
    /// Records whose first message is an answer, which is dropped.
    pub leading_answers: u64,
    /// Records whose last question has no answer; it is dropped.
    pub unanswered: u64,
    /// Records with images and without `<image>`, which is put in front of the first question.
    pub unmarked_images: u64,
    /// Records without images in which `<image>` is text.
    pub literal_marks: u64,
}

impl RecordCounts {
    /// Returns a sentence for each count that is not zero.
    #[must_use]
    pub fn sentences(&self) -> Vec<String> {
        let counts = [
            (self.leading_answers, "start with an answer, which is dropped"),
            (self.unanswered, "end with a question without an answer, which is dropped"),
            (
                self.unmarked_images,
                "have images but no `<image>` in their text: it is put in front of the first question",
            ),
            (
                self.literal_marks,
                "have `<image>` in their text but no image: it is text there; if images are missing, name them in `image`",
            ),
        ];
        let found = counts.into_iter().filter(|(count, _)| *count > 0);
        found.map(|(count, what)| format!("{count} record(s) {what}")).collect()
    }
}

impl AddAssign for RecordCounts {
    fn add_assign(&mut self, other: Self) {
        self.leading_answers += other.leading_answers;
        self.unanswered += other.unanswered;
        self.unmarked_images += other.unmarked_images;
        self.literal_marks += other.literal_marks;
    }
}
