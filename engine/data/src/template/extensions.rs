//! Hugging Face's extensions of Jinja.

use jiff::civil::{DateTime, datetime};
use minijinja::{Environment, Error, ErrorKind, State, Value, value::Kwargs};

use super::{
    json::tojson,
    marks::{END, START},
};

/// Returns an environment that renders as `apply_chat_template` does.
pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment.add_function("generation", generation);
    environment.add_filter("tojson", tojson);
    environment
}

/// Date of every rendered template: the one that Llama's templates write where no clock is given. The date of the day would
/// give each rank, and each resumed run, other samples.
const DATE: DateTime = datetime(2024, 7, 26, 0, 0, 0, 0);

/// `strftime_now`: the date in a format of C.
fn strftime_now(format: String) -> Result<String, Error> {
    let date = jiff::fmt::strtime::format(&format, DATE);
    date.map_err(|error| Error::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?}): {error}")))
}

/// `raise_exception`: the template refuses the conversation.
fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// `{% generation %}`: marks what it renders as an answer.
fn generation(state: &State<'_, '_>, kwargs: Kwargs) -> Result<Value, Error> {
    let rendered = kwargs.get::<Value>("caller")?.call(state, &[])?;
    Ok(Value::from_safe_string(format!("{START}{rendered}{END}")))
}

/// Returns an error of a template as one sentence with its line.
pub(super) fn sentence(error: &Error) -> String {
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    error
        .line()
        .map_or(detail.clone(), |line| format!("{detail} (line {line} of the template)"))
}
