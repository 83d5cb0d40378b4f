//! Table of all templates, one per line, followed by the styles that they share.
//!
//! `mllama` writes the date that its chat template has where no clock is given, so that all ranks and days agree.

use super::Template;

/// All templates.
#[rustfmt::skip]
pub const TEMPLATES: &[Template] = &[
    Template { name: "v1", aliases: &["default", "vicuna", "vicuna_v1", "vicuna_v1_1", "vicuna_v1_5", "v1_5", "llava", "llava_1_5",
        "llava_v1_5", "llava15"], system: A_CURIOUS_USER, ..TWO },
    Template { name: "llava_v1", system: A_CURIOUS_HUMAN, ..TWO },
    Template { name: "llava_v1_mmtag", system: MMTAG, ..TWO },
    Template { name: "plain", aliases: &["v0_plain", "llava_plain", "pretrain", "caption"], ..PLAIN },
    Template { name: "v0", aliases: &["llava_v0"], system: A_CURIOUS_HUMAN, ..SINGLE },
    Template { name: "llava_v0_mmtag", system: MMTAG, ..SINGLE },
    Template { name: "llava_llama_3", aliases: &["llama_3", "llama3", "llama_v3", "llava_llama3", "llama_3_instruct"],
        system: VISION_ASSISTANT, ..LLAMA_3 },
    Template { name: "mllama", aliases: &["llama_3_2_vision", "llama3_2_vision"], ..MLLAMA },
    Template { name: "llama_2", aliases: &["llama2", "llama_v2", "llama_2_chat"], system: HONEST_ASSISTANT, ..LLAMA_2 },
    Template { name: "llava_llama_2", aliases: &["llava_llama2"], system: VISION_ASSISTANT, ..LLAMA_2 },
    Template { name: "llava_llama_2_simple", system: "Answer the questions about the visual content that the user provides.", ..LLAMA_2 },
    Template { name: "llava_llama_2_mmtag", system: "Answer the questions about the visual content that the user provides.The visual \
        content will be provided with the following format: <Image>visual content</Image>.", ..LLAMA_2 },
    Template { name: "mistral_instruct", aliases: &["llava_mistral_instruct", "llava_mistral"], ..LLAMA_2 },
    Template { name: "mistral", aliases: &["vila"], ..MISTRAL },
    Template { name: "qwen_1_5", aliases: &["qwen", "qwen_2", "qwen2", "chatml"], system: "You are a helpful assistant.", ..CHATML },
    Template { name: "mpt", system: "A conversation between a user and an LLM-based AI assistant. The assistant gives helpful and honest \
        answers.", ..MPT },
    Template { name: "mistral_orca", aliases: &["orca"], system: "You are MistralOrca, a large language model trained by Alignment Lab AI. \
        Write out your reasoning step-by-step to be sure you get the right answers!", ..MPT },
    Template { name: "mistral_direct", aliases: &["chatml_direct"], system: "Answer the questions.", ..MPT },
    Template { name: "mistral_zephyr", aliases: &["zephyr"], system: "You are a helpful AI assistant.", ..ZEPHYR },
    Template { name: "gemma_instruct", aliases: &["gemma", "gemma_2", "gemma2", "gemma_it"], ..GEMMA },
    Template { name: "nvgpt", aliases: &["nv_steerlm", "steerlm"], system: A_CURIOUS_USER, ..NVGPT },
    Template { name: "nv_dpo", ..NVGPT },];

const NONE: Template = Template {
    name: "",
    aliases: &[],
    begin: "",
    system: "",
    system_frame: ("", ""),
    no_system: "",
    user: ("", ""),
    assistant: "",
    gap: "",
    stop: "",
    after: "",
    between: "",
    trim: false,
    caption_only: false,
    without_system: false,
    text_headers: false,
};

/// Vicuna: two separators, a space and the end-of-sequence token.
const TWO: Template = Template {
    system_frame: ("", " "),
    user: ("USER: ", " "),
    assistant: "ASSISTANT:",
    gap: " ",
    stop: "</s>",
    ..NONE
};

/// A caption after an image.
const PLAIN: Template = Template {
    stop: "\n",
    caption_only: true,
    without_system: true,
    ..NONE
};

/// One separator. NeMo's templates have no stop string here; we use the separator.
const SINGLE: Template = Template {
    system_frame: ("", "###"),
    user: ("Human: ", "###"),
    assistant: "Assistant:",
    gap: " ",
    stop: "###",
    ..NONE
};

/// Meta-Llama-3-8B-Instruct.
const LLAMA_3: Template = Template {
    begin: "<|begin_of_text|>",
    system_frame: ("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"),
    user: ("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
    assistant: "<|start_header_id|>assistant<|end_header_id|>\n\n",
    stop: "<|eot_id|>",
    trim: true,
    ..NONE
};

/// Llama-3.2-11B-Vision-Instruct. NeMo passes it the text of a conversation, so it writes a system header in any case.
const MLLAMA: Template = Template {
    system_frame: (
        "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n",
        "<|eot_id|>",
    ),
    no_system: "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>",
    ..LLAMA_3
};

/// Llama-2-7b-chat: the system text is part of the first question, and each turn starts with its own `<s>`.
const LLAMA_2: Template = Template {
    begin: "<s>[INST] ",
    system_frame: ("<<SYS>>\n", "\n<</SYS>>\n\n"),
    user: ("", " [/INST]"),
    gap: " ",
    stop: " </s>",
    between: "<s>[INST] ",
    trim: true,
    ..NONE
};

/// Mistral as in VILA. (NeMo renders the missing system text as "None"; we leave it empty.)
const MISTRAL: Template = Template {
    begin: "<s>[INST] ",
    user: ("", " [/INST]"),
    stop: "</s>",
    between: "[INST] ",
    ..NONE
};

/// ChatML as in MPT: no line break after an end mark.
const MPT: Template = Template {
    system_frame: ("<|im_start|>system\n", "<|im_end|>"),
    user: ("<|im_start|>user\n", "<|im_end|>"),
    assistant: "<|im_start|>assistant\n",
    stop: "<|im_end|>",
    ..NONE
};

/// ChatML as in Qwen: a line break after each end mark.
const CHATML: Template = Template {
    system_frame: ("<|im_start|>system\n", "<|im_end|>\n"),
    user: ("<|im_start|>user\n", "<|im_end|>\n"),
    after: "\n",
    ..MPT
};

const ZEPHYR: Template = Template {
    system_frame: ("<|system|>\n", "</s>"),
    user: ("<|user|>\n", "</s>"),
    assistant: "<|assistant|>\n",
    stop: "</s>",
    text_headers: true,
    ..NONE
};

const GEMMA: Template = Template {
    user: ("<start_of_turn>user\n", "<end_of_turn>\n"),
    assistant: "<start_of_turn>model\n",
    stop: "<end_of_turn>",
    after: "\n",
    without_system: true,
    ..NONE
};

const NVGPT: Template = Template {
    begin: "<extra_id_0>System\n",
    system_frame: ("", "\n\n<extra_id_1>"),
    no_system: "\n<extra_id_1>",
    user: ("User\n", "\n<extra_id_1>"),
    assistant: "Assistant\n",
    stop: "\n<extra_id_1>",
    ..NONE
};

const A_CURIOUS_USER: &str = "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, \
    detailed, and polite answers to the user's questions.";

const A_CURIOUS_HUMAN: &str = "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, \
    detailed, and polite answers to the human's questions.";

const MMTAG: &str = "A chat between a curious user and an artificial intelligence assistant. The assistant is able to understand the \
    visual content that the user provides, and assist the user with a variety of tasks using natural language.The visual content will be \
    provided with the following format: <Image>visual content</Image>.";

const VISION_ASSISTANT: &str = "You are a helpful language and vision assistant. You are able to understand the visual content that the \
    user provides, and assist the user with a variety of tasks using natural language.";

const HONEST_ASSISTANT: &str = "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being \
    safe.  Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. Please ensure \
    that your responses are socially unbiased and positive in nature.\n\nIf a question does not make any sense, or is not factually \
    coherent, explain why instead of answering something not correct. If you don't know the answer to a question, please don't share \
    false information.";
