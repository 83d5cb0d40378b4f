//! Questions and answers of a record, from its messages.

use super::{counts::RecordCounts, messages::Message, roles::Role};
use crate::conversation::{Conversation, IMAGE_TOKEN, Turn};

/// Questions and answers in turn, with what was dropped around them.
pub(super) struct Dialogue {
    system: Option<String>,
    turns: Vec<Turn>,
    /// Numbers of `<image>` in a dropped first answer and in a dropped last question.
    dropped: (usize, usize),
}

impl Dialogue {
    /// Makes turns of messages. The system message must be the first.
    pub(super) fn new(list: Vec<Message>, counts: &mut RecordCounts) -> Result<Self, String> {
        if list.is_empty() {
            return Err("is empty".to_owned());
        }
        let mut list = list.into_iter().peekable();
        let system = list.next_if(|message| message.role == Role::System).map(|message| message.text);
        let first = list.next_if(|message| message.role == Role::Assistant);
        counts.leading_answers += u64::from(first.is_some());
        let marks = |text: &str| text.matches(IMAGE_TOKEN).count();
        let mut dialogue = Self {
            system,
            turns: Vec::new(),
            dropped: (first.map_or(0, |message| marks(&message.text)), 0),
        };
        let mut question: Option<Message> = None;
        for message in list {
            let Message { index, role, from, text } = message;
            match (role, question.take()) {
                (Role::User, None) => question = Some(Message { index, role, from, text }),
                (Role::Assistant, Some(question)) => dialogue.turns.push(Turn {
                    question: question.text,
                    answer: Some(text),
                }),
                (Role::System, _) => {
                    return Err(format!(
                        "message {index} is from {from:?}: only the first message can be the system text"
                    ));
                }
                _ => {
                    return Err(format!(
                        "message {index} is from {from:?}, but questions and answers must alternate"
                    ));
                }
            }
        }
        if let Some(question) = question {
            if dialogue.turns.is_empty() {
                return Err("has a question, but no answer".to_owned());
            }
            counts.unanswered += 1;
            dialogue.dropped.1 = marks(&question.text);
        }
        if dialogue.turns.is_empty() {
            return Err("has no question with an answer".to_owned());
        }
        Ok(dialogue)
    }

    /// Relates the images `names` to the `<image>` in the text.
    pub(super) fn place_images(&mut self, names: &mut Vec<String>, counts: &mut RecordCounts) -> Result<(), String> {
        let mut conversation = Conversation {
            system: None,
            turns: std::mem::take(&mut self.turns),
        };
        let (found, images, (first, last)) = (conversation.placeholders(), names.len(), self.dropped);
        if images == 0 && found > 0 {
            counts.literal_marks += 1;
            for turn in &mut conversation.turns {
                turn.question = Conversation::literal(&turn.question).into_owned();
                turn.answer = turn.answer.as_deref().map(|answer| Conversation::literal(answer).into_owned());
            }
        } else if images > 0 && first + found + last == images {
            // The images of dropped messages go with them.
            names.drain(..first);
            names.truncate(found);
        } else if images > 0 && found == 0 {
            counts.unmarked_images += 1;
            conversation.put_images_in_front(images);
        } else if found != images {
            return Err(format!("{images} image(s), but the text has `{IMAGE_TOKEN}` {found} time(s)"));
        }
        self.turns = conversation.turns;
        Ok(())
    }

    /// Returns the conversation, with the system text of the record's field or of its first message.
    pub(super) fn with_system(self, field: Option<String>) -> Result<Conversation, String> {
        let system = match (field, self.system) {
            (Some(field), Some(message)) if field != message => {
                return Err("differs from the system message: keep one of them".to_owned());
            }
            (field, message) => field.or(message),
        };
        Ok(Conversation {
            system: system.map(|text| Conversation::literal(&text).into_owned()),
            turns: self.turns,
        })
    }
}
