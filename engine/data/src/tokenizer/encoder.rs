//! The tokenizer that encodes texts: without the token `<image>`, so that `<image>` as text is no image.

use tokenizers::{AddedToken, Model as _, Tokenizer};

use crate::conversation::IMAGE_TOKEN;

/// Content of the token that takes the place and the id of `<image>`; no text has these noncharacters.
pub(super) const PLACEHOLDER: &str = "\u{fdd3}image\u{fdd4}";

/// Returns a copy of `inner` with the added token [`PLACEHOLDER`] in place of `<image>`. With `appends`, a tokenizer that has
/// no `<image>` gets it, too. `None`: `inner` itself encodes texts, for it has no such token.
///
/// # Errors
/// Returns the error of the tokenizers library.
pub(super) fn encoder(inner: &Tokenizer, appends: bool) -> tokenizers::Result<Option<Tokenizer>> {
    let mut tokens: Vec<(u32, AddedToken)> = inner.get_added_tokens_decoder().into_iter().collect();
    tokens.sort_by_key(|token| token.0);
    let found = tokens.iter().position(|(_, token)| token.content == IMAGE_TOKEN);
    let (found, appends) = match found {
        // The model has the id of `<image>` itself, so none has to be reserved for it.
        Some(at) if inner.get_model().token_to_id(IMAGE_TOKEN).is_some() => {
            tokens.remove(at);
            (None, appends)
        }
        Some(at) => (Some(at), false),
        None if appends => (None, true),
        None => return Ok(None),
    };
    if let Some((_, token)) = found.and_then(|at| tokens.get_mut(at)) {
        PLACEHOLDER.clone_into(&mut token.content);
    }
    if appends {
        tokens.push((u32::MAX, AddedToken::from(PLACEHOLDER, true).normalized(false)));
    }
    let mut encoder = Tokenizer::new(inner.get_model().clone());
    encoder.with_normalizer(inner.get_normalizer().cloned())?;
    encoder.with_pre_tokenizer(inner.get_pre_tokenizer().cloned());
    // It may trim the spans of tokens.
    encoder.with_post_processor(inner.get_post_processor().cloned());
    // In the order of their ids, which the library gives again in this order.
    encoder.add_tokens(tokens.into_iter().map(|(_, token)| token))?;
    Ok(Some(encoder))
}
