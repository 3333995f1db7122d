//! Turns the errors of tensor operations into sentences for users.

use candle_core::Error;

/// The sentence that a tensor operation's error says, without the stack that candle may have attached.
///
/// candle's own `Display` adds the stack under `RUST_BACKTRACE=1`, which many set for good; a user gets the sentence.
pub fn message(error: &Error) -> String {
    match error {
        Error::WithBacktrace { inner, .. } => message(inner),
        Error::WithPath { inner, path } => format!("{}: {}", path.display(), message(inner)),
        Error::Context { inner, context } => format!("{context}: {}", message(inner)),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::message;
    use candle_core::Error;

    #[test]
    fn a_message_has_no_stack_in_it() {
        let backtrace = Box::new(std::backtrace::Backtrace::force_capture());
        let inner = Box::new(Error::Msg("id 9 is beyond the 5 rows".into()));
        let error = Error::WithBacktrace { inner, backtrace }.with_path("m");
        assert_eq!(message(&error), "m: id 9 is beyond the 5 rows");
    }
}
