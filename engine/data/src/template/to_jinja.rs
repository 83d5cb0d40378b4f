//! Templates as Jinja, for exports: transformers' `apply_chat_template` renders with them what a run was trained on.

use std::fmt::Write as _;

use super::{ChatTemplate, JinjaTemplate, Template, content::Content};

impl ChatTemplate {
    /// Returns the template as Jinja. It takes the contents of messages as texts, and as lists of parts of the types `text`
    /// and `image`; an image in a list is written with a line break, as LLaVA has it. With `bos`, a prompt starts with the
    /// tokenizer's BOS, which transformers' tokenizers do not add to what a template writes.
    #[must_use]
    pub fn to_jinja(&self, bos: bool) -> String {
        match self {
            Self::Table(template) => of_table(template, bos),
            Self::Jinja(template) => of_jinja(template, bos),
        }
    }
}

/// Text of a content that is a string or a list of parts.
const TEXT: &str = r"{%- macro text(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- else -%}
        {%- for part in content -%}
            {%- if part['type'] == 'image' -%}
                {{- '<image>\n' -}}
            {%- elif part['type'] == 'text' -%}
                {{- part['text'] -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
";

/// The images of a content, without its text.
const IMAGES: &str = r"{%- macro text(content) -%}
    {%- if content is string -%}
        {%- for _ in content.split('<image>')[1:] -%}
            {{- '<image>' -}}
        {%- endfor -%}
    {%- else -%}
        {%- for part in content -%}
            {%- if part['type'] == 'image' -%}
                {{- '<image>' -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
";

fn of_table(template: &Template, bos: bool) -> String {
    let mut jinja = String::new();
    let answer_text = if template.caption_only {
        // Only questions are reduced to their images.
        jinja += IMAGES;
        jinja += &TEXT.replace("macro text", "macro answer_text");
        "answer_text"
    } else {
        jinja += TEXT;
        "text"
    };
    let trim = if template.trim { " | trim" } else { "" };
    let quoted_system = quoted(template.system);
    let _ = write!(
        jinja,
        "{{%- if messages and messages[0]['role'] == 'system' -%}}
    {{%- set system = {answer_text}(messages[0]['content']) -%}}
    {{%- set turns = messages[1:] -%}}
{{%- else -%}}
    {{%- set system = {quoted_system} -%}}
    {{%- set turns = messages -%}}
{{%- endif -%}}
"
    );
    if template.without_system {
        jinja += "{%- if system | trim -%}
    {{- raise_exception('the format of this model has no place for a system text') -}}
{%- endif -%}
";
    }
    if template.caption_only {
        jinja += "{%- if turns | length > 2 -%}
    {{- raise_exception('this model takes one question and its answer') -}}
{%- endif -%}
";
    }
    if bos {
        jinja += "{{- bos_token -}}\n";
    }
    jinja += &written(template.begin);
    let (before, after) = template.system_frame;
    let _ = write!(
        jinja,
        "{{%- if system != '' -%}}\n{}    {{{{- system -}}}}\n{}",
        written(before),
        written(after)
    );
    if !template.no_system.is_empty() {
        let _ = write!(jinja, "{{%- else -%}}\n{}", written(template.no_system));
    }
    jinja += "{%- endif -%}
{%- for message in turns -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) or message['role'] not in ['user', 'assistant'] -%}
        {{- raise_exception('messages must alternate between user and assistant, user first') -}}
    {%- endif -%}
    {%- if message['role'] == 'user' -%}
";
    if !template.between.is_empty() {
        let _ = writeln!(jinja, "{{%- if not loop.first -%}}\n{}{{%- endif -%}}", written(template.between));
    }
    jinja += &written(template.user.0);
    let _ = writeln!(jinja, "        {{{{- text(message['content']){trim} -}}}}");
    jinja += &written(template.user.1);
    jinja += "    {%- else -%}\n";
    jinja += &written(template.assistant);
    let _ = writeln!(jinja, "        {{%- set answer = {answer_text}(message['content']){trim} -%}}");
    if !template.gap.is_empty() {
        let _ = writeln!(jinja, "{{%- if answer != '' -%}}\n{}{{%- endif -%}}", written(template.gap));
    }
    jinja += "        {{- answer -}}\n";
    jinja += &written(template.stop);
    jinja += &written(template.after);
    jinja += "    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
";
    jinja += &written(template.assistant);
    jinja += "{%- endif -%}\n";
    jinja
}

/// Returns a Jinja template with the settings that a recipe applies from outside: system text, roles, generation prompt.
fn of_jinja(template: &JinjaTemplate, bos: bool) -> String {
    let settings = template.settings();
    let mut before = String::new();
    if bos {
        before += "{{- bos_token -}}\n";
    }
    if let Some(system) = &settings.system {
        let content = match template.content() {
            Content::Text => quoted(system),
            Content::Parts => format!("[{{'type': 'text', 'text': {}}}]", quoted(system)),
        };
        let _ = write!(
            before,
            "{{%- if messages and messages[0]['role'] != 'system' -%}}
    {{%- set messages = [{{'role': 'system', 'content': {content}}}] + messages -%}}
{{%- endif -%}}
"
        );
    }
    if let [user, assistant] = settings.roles.as_slice() {
        let (user, assistant) = (quoted(user), quoted(assistant));
        let _ = write!(
            before,
            "{{%- set renamed = namespace(messages=[]) -%}}
{{%- for message in messages -%}}
    {{%- set role = {{'user': {user}, 'assistant': {assistant}}}.get(message['role'], message['role']) -%}}
    {{%- set renamed.messages = renamed.messages + [{{'role': role, 'content': message['content']}}] -%}}
{{%- endfor -%}}
{{%- set messages = renamed.messages -%}}
"
        );
    }
    if before.ends_with("-%}\n") {
        // Keeps blanks at the start of the template. The line break after a block is not written.
        before.truncate(before.len() - "-%}\n".len());
        before += "%}\n";
    }
    let header = template.header();
    if before.is_empty() && header.is_empty() {
        return settings.source.clone();
    }
    if header.is_empty() {
        return before + &settings.source;
    }
    // Jinja ignores one line break at the end of a template.
    let source = settings.source.strip_suffix('\n').unwrap_or(&settings.source);
    format!(
        "{before}{source}{{% if add_generation_prompt %}}{{{{ {} }}}}{{% endif %}}",
        quoted(header)
    )
}

/// Returns a statement that writes a text; nothing for an empty one.
fn written(text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    format!("    {{{{- {} -}}}}\n", quoted(text))
}

/// Returns a text as a string of Jinja.
fn quoted(text: &str) -> String {
    let escaped = text.replace('\\', r"\\").replace('\'', r"\'").replace('\n', r"\n");
    format!("'{escaped}'")
}
