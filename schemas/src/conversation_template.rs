//! Conversation templates of your own, in a recipe.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A conversation template in Jinja: NeMo's `LLaVATemplateConfig`. The defaults are NeMo's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename = "LLaVATemplateConfig", deny_unknown_fields, default)]
pub struct ConversationTemplateConfig {
    /// System text of conversations that have none; `null` renders no system message.
    pub system: Option<String>,
    /// Roles of questions and answers in the template.
    pub roles: Vec<String>,
    /// String at the end of an answer; `null` is the first special token that the template writes after an answer.
    pub stop_string: Option<String>,
    /// Jinja template over `messages` of `role` and `content`; `null` is the chat template of the tokenizer.
    pub chat_template: Option<String>,
}

impl Default for ConversationTemplateConfig {
    fn default() -> Self {
        Self {
            system: Some(SYSTEM.into()),
            roles: vec!["user".into(), "assistant".into()],
            stop_string: Some("</s>".into()),
            chat_template: Some(CHAT_TEMPLATE.into()),
        }
    }
}

/// As NeMo 2 has it; its document has another text.
const SYSTEM: &str = "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed and \
    polite answers to user's questions.";

const CHAT_TEMPLATE: &str = "
{%- for message in messages %}
    {%- if message['role'] == 'system' %}
        {{- message['content'].strip() + ' ' -}}
    {%- elif message['role'] == 'user' %}
        {{- 'USER: ' -}}
        {{- message['content'].strip() + ' ' -}}
    {%- elif message['role'] == 'assistant' %}
        {{- 'ASSISTANT: ' -}}
        {{- message['content'].strip() -}}
        {{- '</s>' -}}
    {%- endif %}
{%- endfor -%}
";
