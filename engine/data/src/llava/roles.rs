//! Roles of messages, by the names that data sets use.

/// The speaker of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    User,
    Assistant,
    System,
    Tool,
}

/// Names of each role, in lower case.
#[rustfmt::skip]
const NAMES: &[(Role, &[&str])] = &[
    (
        Role::User,
        &["human", "user", "usr", "person", "prompter", "question", "questioner", "instruction", "customer"],
    ),
    (
        Role::Assistant,
        &[
            "gpt", "assistant", "model", "bot", "ai", "chatbot", "chatgpt", "gpt4", "gpt-4", "gpt4v", "gpt-4v", "gpt-3.5", "claude",
            "gemini", "bing", "bard", "llava", "answer", "agent",
        ],
    ),
    (Role::System, &["system", "developer"]),
    (
        Role::Tool,
        &[
            "tool", "tools", "function", "function_call", "function-call", "function_response", "tool_call", "tool_calls",
            "tool_response", "observation", "ipython", "environment",
        ],
    ),
];

impl Role {
    /// Returns the role with this name, in any case. `None`: the name is unknown, and a guess would make labels of questions.
    pub(super) fn named(name: &str) -> Option<Self> {
        let name = name.trim().to_lowercase();
        NAMES
            .iter()
            .find(|(_, names)| names.contains(&name.as_str()))
            .map(|(role, _)| *role)
    }
}
