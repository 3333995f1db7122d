//! Runs Jinja templates as Hugging Face's library does, with the functions that it adds, and with
//! bounds on time and memory.

use crate::error::Result;
use minijinja::{ErrorKind, State, Value};
use std::collections::BTreeMap;
use std::fmt::Write;

mod guard;
mod json;

use guard::{Guarded, Limits};

/// The variable that holds the time.
pub(crate) const NOW: &str = "__lacuna_now";

/// A template that was found to be one.
#[derive(Debug)]
pub(crate) struct Template {
    guarded: Guarded,
}

impl Template {
    pub(crate) fn new(source: &str) -> Result<Self> {
        let source = without_generation_marks(source);
        let guarded = Guarded::new(source, Limits::default(), |environment| {
            environment.add_function("raise_exception", raise_exception);
            environment.add_function("strftime_now", strftime_now);
            environment.add_filter("tojson", json::to_json);
        })?;
        Ok(Self { guarded })
    }

    pub(crate) fn render(&self, variables: &BTreeMap<String, Value>) -> Result<String> {
        self.guarded.render(variables)
    }
}

fn raise_exception(state: &State, message: Value) -> Result<Value, minijinja::Error> {
    guard::pay_for(state, &message)?;
    let message = format!("it refuses the conversation: {message}");
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

fn strftime_now(state: &mut State, format: Value) -> Result<String, minijinja::Error> {
    guard::pay_for(state, &format)?;
    let now = state.lookup(NOW).and_then(|now| i64::try_from(now).ok()).unwrap_or(0);
    Ok(strftime(&format.to_string(), now))
}

/// Turns `{% generation %}…{% endgeneration %}`, an extension that marks responses, into an `if`
/// that is always true, with its white-space control kept.
fn without_generation_marks(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        let (before, tag) = rest.split_at(open);
        text.push_str(before);
        let Some(close) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let (tag, after) = tag.split_at(close + 2);
        let inner = tag[2..close].trim_matches(['-', '+']).trim();
        match inner {
            "generation" => text.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => text.push_str(&tag.replace("endgeneration", "endif")),
            _ => text.push_str(tag),
        }
        rest = after;
    }
    text.push_str(rest);
    text
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] =
    ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// The usual directives of C's `strftime`, in UTC; others stay as they are.
fn strftime(format: &str, now: i64) -> String {
    let (days, seconds) = (now.div_euclid(86_400), now.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let month_name = MONTHS[month as usize - 1];
    let day_name = DAYS[days.rem_euclid(7) as usize];
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let mut text = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        let mut directive = characters.next();
        // As in C: without leading zeros and spaces.
        let plain = directive == Some('-');
        if plain {
            directive = characters.next();
        }
        let written = match directive {
            Some('m') if plain => write!(text, "{month}"),
            Some('d' | 'e') if plain => write!(text, "{day}"),
            Some('H') if plain => write!(text, "{hour}"),
            Some('I') if plain => write!(text, "{}", (hour + 11) % 12 + 1),
            Some('M') if plain => write!(text, "{minute}"),
            Some('S') if plain => write!(text, "{second}"),
            Some('Y') => write!(text, "{year}"),
            Some('y') => write!(text, "{:02}", year.rem_euclid(100)),
            Some('m') => write!(text, "{month:02}"),
            Some('d') => write!(text, "{day:02}"),
            Some('e') => write!(text, "{day:2}"),
            Some('B') => write!(text, "{month_name}"),
            Some('b' | 'h') => write!(text, "{}", &month_name[..3]),
            Some('A') => write!(text, "{day_name}"),
            Some('a') => write!(text, "{}", &day_name[..3]),
            Some('H') => write!(text, "{hour:02}"),
            Some('I') => write!(text, "{:02}", (hour + 11) % 12 + 1),
            Some('p') => write!(text, "{}", if hour < 12 { "AM" } else { "PM" }),
            Some('M') => write!(text, "{minute:02}"),
            Some('S') => write!(text, "{second:02}"),
            Some('D') => write!(text, "{month:02}/{day:02}/{:02}", year.rem_euclid(100)),
            Some('R') => write!(text, "{hour:02}:{minute:02}"),
            Some('s') => write!(text, "{now}"),
            Some('n') => writeln!(text),
            Some('t') => write!(text, "\t"),
            Some('Z') => write!(text, "UTC"),
            Some('z') => write!(text, "+0000"),
            Some('F') => write!(text, "{year}-{month:02}-{day:02}"),
            Some('T') => write!(text, "{hour:02}:{minute:02}:{second:02}"),
            Some('%') => write!(text, "%"),
            Some(other) => write!(text, "%{other}"),
            None => write!(text, "%"),
        };
        written.expect("writing to a string cannot fail");
    }
    text
}

/// Year, month and day of a day counted from 1 January 1970, by the proleptic Gregorian calendar.
fn civil(days: i64) -> (i64, i64, i64) {
    // Counted from 1 March of year 0, so that leap days end their years and eras are 400 years.
    let shifted = days.saturating_add(719_468);
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let leaps = day_of_era / 1460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leaps) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::{civil, strftime, without_generation_marks};

    #[test]
    fn days_count_as_in_the_calendar() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(20_780), (2026, 11, 23));
        assert_eq!(civil(-1), (1969, 12, 31));
    }

    #[test]
    fn times_are_written_as_c_does() {
        let now = 1_795_437_659;
        assert_eq!(
            strftime("%d %b %Y, %A %H:%M:%S %I %p %y %q %", now),
            "23 Nov 2026, Monday 12:40:59 12 PM 26 %q %"
        );
        assert_eq!(strftime("%F %T %e %B", 0), "1970-01-01 00:00:00  1 January");
    }

    #[test]
    fn generation_marks_keep_their_white_space_control() {
        let marked = "a{%- generation -%} b {% endgeneration %}{% if generation %}{% endif %}";
        let plain = "a{%- if true -%} b {% endif %}{% if generation %}{% endif %}";
        assert_eq!(without_generation_marks(marked), plain);
    }
}
