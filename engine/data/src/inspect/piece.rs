//! Tokens with their texts.

use serde::Serialize;

use crate::{sample::IMAGE_TOKEN_INDEX, tokenizer::Encoded};

/// A token of a sample.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Piece {
    /// Token id, [`IMAGE_TOKEN_INDEX`] for an image.
    pub id: i64,
    /// Text. Empty for all but the last of the tokens of one character.
    pub text: String,
    /// First position in the sequence of the model.
    pub position: usize,
    /// Number of positions: 1, or those of an image.
    pub len: usize,
    /// Index of the image, for an image.
    pub image: Option<usize>,
    /// The model is trained to write this token.
    pub is_label: bool,
    /// The token is behind the cut at `seq_length`, also partly.
    pub is_cut: bool,
}

/// Returns the tokens of a sample whose images have these numbers of tiles. `decode` returns the text of ids.
pub(super) fn pieces(
    decode: &dyn Fn(&[i64]) -> String,
    encoded: &Encoded,
    tiles: &[usize],
    image_seq_len: usize,
    seq_length: usize,
) -> Vec<Piece> {
    let (mut pieces, mut position, mut images) = (Vec::new(), 0, 0);
    let mut texts = Texts::default();
    let mut previous = None;
    for (&id, &label) in encoded.ids.iter().zip(&encoded.labels) {
        let is_image = id == IMAGE_TOKEN_INDEX;
        let len = match is_image {
            true => image_seq_len * tiles.get(images).copied().unwrap_or(1),
            false => 1,
        };
        let text = if is_image {
            texts = Texts::default();
            String::new()
        } else {
            texts.next(id, decode)
        };
        // The target of a position is the next token. An image is no target, and its last position has none.
        let is_target = label >= 0 && !is_image && !matches!(previous, None | Some(IMAGE_TOKEN_INDEX));
        let is_cut = if is_target {
            position > seq_length
        } else {
            position + len > seq_length
        };
        pieces.push(Piece {
            id,
            text,
            position,
            len,
            image: is_image.then_some(images),
            is_label: is_target && !is_cut,
            is_cut,
        });
        images += usize::from(is_image);
        position += len;
        previous = Some(id);
    }
    pieces
}

/// Texts of the tokens of a text, one after the other. The text of a token depends on the tokens before it: a tokenizer
/// drops the blank in front of a text, and a character may have several tokens.
#[derive(Default)]
struct Texts {
    /// The last token with a text, and the tokens after it.
    ids: Vec<i64>,
    /// Number of `ids` whose text was returned.
    read: usize,
}

impl Texts {
    fn next(&mut self, id: i64, decode: &dyn Fn(&[i64]) -> String) -> String {
        let before = decode(self.ids.get(..self.read).unwrap_or_default());
        self.ids.push(id);
        let text = decode(&self.ids);
        let is_whole = text.len() > before.len() && !text.ends_with('\u{fffd}');
        match text.strip_prefix(before.as_str()) {
            Some(new) if is_whole => {
                self.ids.drain(..self.read);
                self.read = self.ids.len();
                new.to_owned()
            }
            _ => String::new(),
        }
    }
}
