//! Tokenizer and conversation template of a run's text, from the settings of its data. Training, checks and generation use
//! the same.

use std::sync::Arc;

use neva_schemas::{ConversationTemplateConfig, ImageDataConfig, ImageTextTokenization};

use crate::{
    error::DataError,
    template::{ChatTemplate, JinjaSettings, JinjaTemplate, TEMPLATES, Template},
    tokenizer::{ImageText, Tokenizer},
};

/// Tokenizer and conversation template of a run's text.
#[derive(Debug)]
pub struct TextTools {
    /// The tokenizer, with the run's settings of BOS and images.
    pub tokenizer: Tokenizer,
    /// The conversation template.
    pub template: ChatTemplate,
}

impl TextTools {
    /// Applies the settings of `config` and `add_bos` to `tokenizer`, and finds the template, in the order of NeMo's document:
    /// `conversation_template_config`, `conv_template`, the chat template of the tokenizer.
    ///
    /// `add_bos: null` is what the tokenizer says. The tokenizer's own chat template writes BOS itself, so none is added there.
    ///
    /// # Errors
    /// Returns an error if there is no template, or if it cannot be used.
    pub fn new(config: &ImageDataConfig, add_bos: Option<bool>, tokenizer: Tokenizer) -> Result<Self, DataError> {
        let image_text = match config.image_text_tokenization {
            ImageTextTokenization::Llava => ImageText::Llava,
            ImageTextTokenization::HuggingFace => ImageText::HuggingFace,
        };
        let tokenizer = tokenizer.with_image_text(image_text)?;
        let template = template(config, &tokenizer)?;
        let is_own = config.conversation_template_config.is_none() && config.conv_template.is_none();
        let adds = add_bos.unwrap_or(!is_own && tokenizer.adds_bos());
        Ok(Self {
            tokenizer: tokenizer.with_bos(adds),
            template,
        })
    }

    /// Checks that the tokenizer has the template's control strings as single tokens. Returns a sentence for those around
    /// questions and answers that it spells as text.
    ///
    /// # Errors
    /// Returns [`DataError::StopString`] if the end of an answer is not one token: such a model does not stop. Templates whose
    /// stop string is text in every tokenizer, as `###` and the line break of `plain`, are accepted.
    pub fn check_control_strings(&self) -> Result<Option<String>, DataError> {
        let Self { tokenizer, template } = self;
        let spelled =
            |strings: Vec<String>| -> Vec<String> { strings.into_iter().filter(|string| !tokenizer.is_one_token(string)).collect() };
        let controls = template.control_strings();
        let stop = spelled(controls.stop);
        if !stop.is_empty() || template.stop().is_empty() {
            let fits = |known: &&'static Template| {
                let stop = ChatTemplate::from(*known).control_strings().stop;
                !stop.is_empty() && stop.iter().all(|string| tokenizer.is_one_token(string))
            };
            return Err(DataError::StopString {
                template: template.name().to_owned(),
                tokenizer: tokenizer.name().to_owned(),
                strings: stop,
                templates: TEMPLATES.iter().filter(fits).map(|template| template.name).collect(),
            });
        }
        let headers = spelled(controls.headers);
        Ok((!headers.is_empty()).then(|| {
            let quoted: Vec<_> = headers.iter().map(|string| format!("`{string}`")).collect();
            format!(
                "template `{}` writes {}, which the tokenizer {} spells as text of several tokens: is it the template of this model?",
                template.name(),
                quoted.join(", "),
                tokenizer.name()
            )
        }))
    }
}

fn template(config: &ImageDataConfig, tokenizer: &Tokenizer) -> Result<ChatTemplate, DataError> {
    if let Some(own) = &config.conversation_template_config {
        return jinja(own, tokenizer);
    }
    if let Some(name) = &config.conv_template {
        return ChatTemplate::named(name);
    }
    let Some(source) = tokenizer.chat_template() else {
        return Err(DataError::NoTemplate {
            tokenizer: tokenizer.name().to_owned(),
        });
    };
    let settings = JinjaSettings {
        name: format!("of the tokenizer {}", tokenizer.name()),
        source: source.to_owned(),
        tokens: tokenizer.named_tokens().to_vec(),
        special: tokenizer.special_tokens(),
        ..JinjaSettings::default()
    };
    Ok(ChatTemplate::Jinja(Arc::new(JinjaTemplate::new(settings)?)))
}

/// Returns the template of the recipe, rendered by its own Jinja text, or by that of the tokenizer if it has none.
fn jinja(own: &ConversationTemplateConfig, tokenizer: &Tokenizer) -> Result<ChatTemplate, DataError> {
    let source = match (&own.chat_template, tokenizer.chat_template()) {
        (Some(source), _) => source.clone(),
        (None, Some(source)) => source.to_owned(),
        (None, None) => {
            return Err(DataError::NoTemplate {
                tokenizer: tokenizer.name().to_owned(),
            });
        }
    };
    let settings = JinjaSettings {
        name: "conversation_template_config".to_owned(),
        source,
        tokens: tokenizer.named_tokens().to_vec(),
        special: tokenizer.special_tokens(),
        system: own.system.clone(),
        roles: own.roles.clone(),
        stop: own.stop_string.clone(),
    };
    Ok(ChatTemplate::Jinja(Arc::new(JinjaTemplate::new(settings)?)))
}
