//! Reads requests: their bodies under the limits, their fields by name, and what all of them share.

use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use lacuna_engine::{Attention, FillRule, GenerateOptions, Sampling};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::num::NonZeroUsize;
use std::time::Duration;
use utoipa::ToSchema;

use super::errors::ApiError;
use super::form::Form;
use crate::app::{App, Way};
use crate::work::Class;

/// The owner of a request: the number of the key that it carries.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Caller(pub(crate) usize);

/// Fields of llama.cpp's and OpenAI's requests that are taken and not followed, because nothing here is like them. A
/// response names those that a request had.
const IGNORED: [&str; 52] = [
    "adaptive_decay",
    "adaptive_target",
    "backend_sampling",
    "chat_format",
    "dry_allowed_length",
    "dry_base",
    "dry_multiplier",
    "dry_penalty_last_n",
    "dry_sequence_breakers",
    "dynatemp_exponent",
    "dynatemp_range",
    "image_data",
    "lora",
    "metadata",
    "min_keep",
    "mirostat",
    "mirostat_eta",
    "mirostat_tau",
    "n_discard",
    "n_indent",
    "n_keep",
    "n_probs",
    "parallel_tool_calls",
    "parse_tool_calls",
    "penalize_nl",
    "post_sampling_probs",
    "prompt_cache_key",
    "prompt_cache_retention",
    "realtime",
    "reasoning_budget",
    "reasoning_effort",
    "reasoning_format",
    "reasoning_in_content",
    "repeat_last_n",
    "return_progress",
    "return_tokens",
    "safety_identifier",
    "samplers",
    "service_tier",
    "speculative.n_max",
    "speculative.n_min",
    "speculative.p_min",
    "speculative.type",
    "store",
    "t_max_prompt_ms",
    "timings_per_token",
    "top_n_sigma",
    "typical_p",
    "user",
    "verbosity",
    "xtc_probability",
    "xtc_threshold",
];

/// One text or several.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a text or a list of texts")]
pub(crate) enum Stop {
    One(String),
    Several(Vec<String>),
}

/// Settings of a stream's end.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct StreamOptions {
    /// True if the last chunk tells how many tokens there were.
    pub(crate) include_usage: Option<bool>,
}

/// Defines a request: fields of its own, those that all requests have, and whatever else a client sends.
macro_rules! request {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, serde::Deserialize, utoipa::ToSchema)]
        pub(crate) struct $name {
            $($(#[$field_doc])* pub(crate) $field: Option<$type>,)*
            /// Any name: there is one model, and its answers carry this name.
            pub(crate) model: Option<String>,
            /// 0: always the most probable token. Without any field of this kind: as the checkpoint says.
            pub(crate) temperature: Option<f64>,
            /// Only the most probable tokens that hold this much probability.
            pub(crate) top_p: Option<f64>,
            /// Only the most probable tokens; 0: all.
            pub(crate) top_k: Option<i64>,
            /// Only tokens at least this probable in proportion to the most probable.
            pub(crate) min_p: Option<f64>,
            /// Above 1: tokens of the prompt and of the text become less likely (`repetition_penalty` is the same).
            #[serde(alias = "repetition_penalty")]
            pub(crate) repeat_penalty: Option<f64>,
            /// Taken from a token's logit for each time that the text has it (-100 to 100; 0).
            pub(crate) frequency_penalty: Option<f64>,
            /// Taken from a token's logit if the text has it (-100 to 100; 0).
            pub(crate) presence_penalty: Option<f64>,
            /// The form of the text: `text`, `json_object` (of at most three levels), or `json_schema` with a schema that
            /// a regular expression can follow.
            #[schema(value_type = Option<Object>)]
            pub(crate) response_format: Option<crate::api::form::Ordered>,
            /// The schema of a text that is JSON.
            #[schema(value_type = Option<Object>)]
            pub(crate) json_schema: Option<crate::api::form::Ordered>,
            /// The grammar of the text in llama.cpp's form, whose rules do not lead into themselves.
            pub(crate) grammar: Option<String>,
            /// The regular expression that matches all of the text.
            pub(crate) regex: Option<String>,
            /// Names the random stream: the same seed writes the same text. Negative or absent: another each time.
            pub(crate) seed: Option<i64>,
            /// Texts that end the answer, which does not include them.
            pub(crate) stop: Option<crate::api::fields::Stop>,
            /// True if the answer comes in pieces, as events.
            pub(crate) stream: Option<bool>,
            /// Settings of the stream's end.
            pub(crate) stream_options: Option<crate::api::fields::StreamOptions>,
            /// The confidence from which positions are filled together.
            pub(crate) threshold: Option<f64>,
            /// Tokens in a block.
            pub(crate) block_size: Option<usize>,
            /// The tokens that a masked position sees: `block-causal`, `full` or `causal`. Absent: as the model was trained.
            pub(crate) attention: Option<String>,
            /// True if the text does not end before its length.
            pub(crate) ignore_eos: Option<bool>,
            /// The editor, or the conversation, whose last text is remembered for this one.
            pub(crate) id_slot: Option<i64>,
            /// Always so: what was read is remembered.
            pub(crate) cache_prompt: Option<bool>,
            /// Milliseconds after which the finished blocks are the answer, counted once the prompt is read. A request
            /// with it comes before those without.
            pub(crate) t_max_predict_ms: Option<i64>,
            #[serde(flatten)]
            #[schema(ignore)]
            pub(crate) extra: serde_json::Map<String, serde_json::Value>,
        }

        impl $name {
            /// The fields that all requests have.
            pub(crate) fn shared(&self) -> crate::api::fields::Shared<'_> {
                crate::api::fields::Shared {
                    model: self.model.as_deref(),
                    streams: self.stream == Some(true),
                    with_usage: self.stream_options.as_ref().and_then(|one| one.include_usage)
                        == Some(true),
                    forgets: self.cache_prompt == Some(false),
                    temperature: self.temperature,
                    top_p: self.top_p,
                    top_k: self.top_k,
                    min_p: self.min_p,
                    repeat_penalty: self.repeat_penalty,
                    frequency_penalty: self.frequency_penalty,
                    presence_penalty: self.presence_penalty,
                    form: crate::api::form::Form {
                        response_format: self.response_format.as_ref(),
                        json_schema: self.json_schema.as_ref(),
                        grammar: self.grammar.as_deref(),
                        regex: self.regex.as_deref(),
                    },
                    seed: self.seed,
                    stop: self.stop.as_ref(),
                    threshold: self.threshold,
                    block_size: self.block_size,
                    attention: self.attention.as_deref(),
                    ignore_eos: self.ignore_eos == Some(true),
                    id_slot: self.id_slot,
                    t_max_predict_ms: self.t_max_predict_ms,
                    extra: &self.extra,
                }
            }
        }
    };
}
pub(crate) use request;

/// The fields that all requests have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shared<'a> {
    pub(crate) model: Option<&'a str>,
    pub(crate) streams: bool,
    /// The last piece of a stream tells how many tokens there were.
    pub(crate) with_usage: bool,
    /// Nothing is to be remembered, which is not followed.
    pub(crate) forgets: bool,
    pub(crate) temperature: Option<f64>,
    pub(crate) top_p: Option<f64>,
    pub(crate) top_k: Option<i64>,
    pub(crate) min_p: Option<f64>,
    pub(crate) repeat_penalty: Option<f64>,
    pub(crate) frequency_penalty: Option<f64>,
    pub(crate) presence_penalty: Option<f64>,
    pub(crate) form: Form<'a>,
    pub(crate) seed: Option<i64>,
    pub(crate) stop: Option<&'a Stop>,
    pub(crate) threshold: Option<f64>,
    pub(crate) block_size: Option<usize>,
    pub(crate) attention: Option<&'a str>,
    pub(crate) ignore_eos: bool,
    pub(crate) id_slot: Option<i64>,
    pub(crate) t_max_predict_ms: Option<i64>,
    pub(crate) extra: &'a Map<String, Value>,
}

impl Shared<'_> {
    /// The options of a request that may have so many new tokens.
    pub(crate) fn options(
        &self,
        app: &App,
        max_new_tokens: usize,
    ) -> Result<GenerateOptions, ApiError> {
        let mut options = GenerateOptions { max_new_tokens, ..app.options.defaults.clone() };
        if let Some(sampling) = self.sampling()? {
            options.sampling = Sampling { seed: options.sampling.seed, ..sampling };
        }
        options.sampling.seed = match self.seed {
            Some(seed) if seed >= 0 => seed as u64,
            // Without a seed another text is wanted each time, if there is any choice.
            _ if options.sampling.temperature > 0.0 => app.number(),
            _ => options.sampling.seed,
        };
        if let Some(tau) = self.threshold {
            ranged("threshold", tau, 0.0, 1.0)?;
            options.fill = Some(FillRule::Threshold { tau });
            options.steps = None;
        }
        if let Some(size) = self.block_size {
            let most = app.positions();
            let size = NonZeroUsize::new(size).filter(|size| size.get() <= most);
            let wrong = || ApiError::wrong("block_size", format!("expected 1 to {most} tokens"));
            options.block_size = Some(size.ok_or_else(wrong)?);
        }
        if let Some(name) = self.attention {
            let attention = name.parse::<Attention>();
            let attention = attention.map_err(|e| ApiError::wrong("attention", e))?;
            if attention == Attention::Full {
                // One block is the whole text: the server's drafts are for others.
                options.drafts = None;
            }
            options.attention = Some(attention);
        }
        if let Some(stop) = self.stop {
            options.stop = stops(stop)?;
        }
        if self.ignore_eos {
            options.eos_ids = Some(Vec::new());
        }
        if let Some((name, pattern)) = self.form.pattern()? {
            let refusal = match (options.stop.is_empty(), self.ignore_eos) {
                (false, _) => Some(("stop", "ends the text where its form may not end")),
                (true, true) => Some(("ignore_eos", "leaves the text no end, which its form says")),
                _ => None,
            };
            if let Some((field, does)) = refusal {
                let reason = format!("{does}; leave it out, or `{name}`");
                return Err(ApiError::wrong(field, reason));
            }
            options.pattern = Some(pattern);
        }
        Ok(options)
    }

    /// The law by which tokens are drawn, where any field says something of it.
    fn sampling(&self) -> Result<Option<Sampling>, ApiError> {
        let Self { temperature, top_p, top_k, min_p, repeat_penalty, .. } = *self;
        let Self { frequency_penalty, presence_penalty, .. } = *self;
        // Clients send penalties of 0 with every request.
        let asked = |penalty: Option<f64>| penalty.filter(|penalty| *penalty != 0.0);
        let (frequency, presence) = (asked(frequency_penalty), asked(presence_penalty));
        let numbers = [temperature, top_p, min_p, repeat_penalty, frequency, presence];
        if top_k.is_none() && numbers.iter().all(Option::is_none) {
            return Ok(None);
        }
        let taken =
            |field, penalty: Option<f64>| ranged(field, penalty.unwrap_or(0.0), -100.0, 100.0);
        let temperature = ranged("temperature", temperature.unwrap_or(0.0), 0.0, 100.0)?;
        let top_p = ranged("top_p", top_p.unwrap_or(1.0), 0.0, 1.0)?;
        let min_p = ranged("min_p", min_p.unwrap_or(0.0), 0.0, 1.0)?;
        let penalty = repeat_penalty.unwrap_or(1.0);
        let repetition_penalty = match penalty > 0.0 && penalty <= 100.0 {
            true => penalty,
            false => {
                return Err(ApiError::wrong("repeat_penalty", "expected above 0, at most 100"));
            }
        };
        let top_k = top_k.and_then(|k| NonZeroUsize::new(usize::try_from(k).unwrap_or(0)));
        Ok(Some(Sampling {
            temperature,
            top_k,
            top_p: Some(top_p).filter(|p| *p > 0.0 && *p < 1.0),
            min_p: Some(min_p).filter(|p| *p > 0.0),
            repetition_penalty,
            frequency_penalty: taken("frequency_penalty", frequency_penalty)?,
            presence_penalty: taken("presence_penalty", presence_penalty)?,
            seed: 0,
        }))
    }

    /// Its urgency, and the text that it goes on with. Editors are those who give a deadline.
    pub(crate) fn way(&self, caller: Caller) -> Way {
        let milliseconds = self.t_max_predict_ms.and_then(|most| u64::try_from(most).ok());
        let deadline = milliseconds.filter(|most| *most > 0).map(Duration::from_millis);
        let prompt = self.extra.get("t_max_prompt_ms").and_then(Value::as_i64).unwrap_or(0);
        let class = match deadline.is_some() || prompt > 0 {
            true => Class::Editor,
            false => Class::Batch,
        };
        // Two keys never share an editor.
        let slot = self.id_slot.and_then(|slot| u32::try_from(slot).ok());
        let slot = slot.map(|slot| (caller.0 as u64) << 32 | u64::from(slot));
        Way { class, key: caller.0, slot, deadline, watch: false }
    }

    /// The names of fields that are not followed.
    ///
    /// # Errors
    /// A field that nobody knows, by its name.
    pub(crate) fn ignored(&self) -> Result<Vec<String>, ApiError> {
        let mut ignored = Vec::new();
        if self.forgets {
            ignored.push("cache_prompt".to_owned());
        }
        for (name, value) in self.extra {
            let known = IGNORED.contains(&name.as_str());
            if !known {
                let shown: String = name.chars().take(60).filter(|c| !c.is_control()).collect();
                let reason = "is no field of this request; /openapi.json lists those there are";
                let message = format!("`{shown}` {reason}");
                return Err(ApiError::refused(message).of(&shown));
            }
            // There is nothing to tell of a value that changes nothing.
            let is_nothing =
                value.is_null() || value.as_f64() == Some(0.0) || *value == Value::Bool(false);
            if !is_nothing {
                ignored.push(name.clone());
            }
        }
        Ok(ignored)
    }
}

/// A number in its range.
fn ranged(field: &str, value: f64, low: f64, high: f64) -> Result<f64, ApiError> {
    match (low..=high).contains(&value) {
        true => Ok(value),
        false => Err(ApiError::wrong(field, format!("expected {low} to {high}, not {value}"))),
    }
}

fn stops(stop: &Stop) -> Result<Vec<String>, ApiError> {
    const STOPS_MAX: usize = 32;
    let all: Vec<String> = match stop {
        Stop::One(text) => vec![text.clone()],
        Stop::Several(texts) => texts.clone(),
    };
    // An empty one would end everything, and is what some clients send for none.
    let all: Vec<String> = all.into_iter().filter(|text| !text.is_empty()).collect();
    if all.len() > STOPS_MAX || all.iter().any(|text| text.len() > 1024) {
        let reason = format!("expected at most {STOPS_MAX} texts of at most 1024 bytes");
        return Err(ApiError::wrong("stop", reason));
    }
    Ok(all)
}

/// The number of texts of a request.
pub(crate) fn texts(field: &str, n: Option<i64>) -> Result<usize, ApiError> {
    match n.unwrap_or(1) {
        n @ 1..=128 => Ok(n as usize),
        n => Err(ApiError::wrong(field, format!("expected 1 to 128, not {n}"))),
    }
}

/// The number of new tokens of a request; negative ones mean as many as there is room for.
pub(crate) fn new_tokens(asked: Option<i64>, otherwise: usize) -> usize {
    match asked {
        None => otherwise,
        Some(asked) => usize::try_from(asked).unwrap_or(usize::MAX >> 1),
    }
}

/// The caller and the fields of a request, read under the limits.
///
/// # Errors
/// A body that is too long or too slow, is no JSON, or has a field of the wrong kind, by its name.
pub(crate) async fn read<T: DeserializeOwned>(
    app: &App,
    request: Request,
) -> Result<(Caller, T), ApiError> {
    let caller = request.extensions().get::<Caller>().copied().unwrap_or_default();
    let most = app.options.limits.body_bytes;
    let announced = request.headers().get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let too_long = || {
        let reason = format!("the body is longer than {most} bytes");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, reason)
    };
    if announced.is_some_and(|length| length > most as u64) {
        return Err(too_long());
    }
    let body = to_bytes(request.into_body(), most);
    let bytes = match tokio::time::timeout(app.options.limits.body, body).await {
        Err(_) => {
            let reason = "the body did not come in time";
            return Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, reason));
        }
        Ok(Err(error)) if error.to_string().contains("length limit") => return Err(too_long()),
        Ok(Err(error)) => {
            let reason = format!("the body could not be read: {error}");
            return Err(ApiError::new(StatusCode::BAD_REQUEST, reason));
        }
        Ok(Ok(bytes)) => bytes,
    };
    Ok((caller, parsed(&bytes)?))
}

fn parsed<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.inner().to_string();
        let reason: String = reason.chars().take(300).collect();
        match error.inner().classify() {
            serde_json::error::Category::Data if path != "." => ApiError::wrong(&path, reason),
            serde_json::error::Category::Data => ApiError::refused(reason),
            _ => ApiError::refused(format!("the body is no JSON: {reason}")),
        }
    })?;
    let rest = json.end();
    rest.map_err(|error| ApiError::refused(format!("the body is no JSON: {error}")))?;
    Ok(parsed)
}

/// Does something with a text of so many bytes. A long one keeps the thread for a while, and others go on meanwhile; a
/// short one is done before another thread would have woken up.
pub(super) fn aside<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    const LONG: usize = 16 << 10;
    match bytes < LONG {
        true => work(),
        false => tokio::task::block_in_place(work),
    }
}

/// Names in a header the fields that were not followed.
pub(crate) fn with_ignored(mut response: Response, ignored: &[String]) -> Response {
    if let Ok(names) = HeaderValue::from_str(&ignored.join(", "))
        && !ignored.is_empty()
    {
        response.headers_mut().insert("x-lacuna-ignored", names);
    }
    response
}
