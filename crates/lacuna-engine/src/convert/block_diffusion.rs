//! Makes an autoregressive checkpoint the start of block-diffusion training: it chooses which id is
//! MASK, and how its row begins.

use lacuna_checkpoint::{Attention, Config, Mode, Name, Outgoing, Weights, mean_row};
use lacuna_kernels::Backend;
use lacuna_random::{Purpose, stream, uniform_f32};
use lacuna_text::FimFormat;
use std::num::NonZeroUsize;
use std::str::FromStr;

use super::files::CarriedFiles;
use crate::advice::Knob;
use crate::error::{Error, Result, unsupported};

/// The spelling of an appended token if no name is given: as the released tokenizers spell theirs.
const MASK: &str = "<[MASK_TOKEN]>";

/// The way in which an autoregressive checkpoint becomes a start for block diffusion.
#[derive(Clone, Debug)]
pub struct ToBlockDiffusion {
    /// The token that stands for a masked position; default: the checkpoint's own, else
    /// `<[MASK_TOKEN]>` of its tokenizer.
    pub mask_token: Option<MaskToken>,
    /// Tokens in a block; default: the checkpoint's own, else 4.
    pub block_size: Option<NonZeroUsize>,
    /// The start of the token's embedding; default: as it is, for an appended token the mean.
    pub mask_embedding: Option<MaskStart>,
    /// Appends the marks of filling in the middle to a tokenizer that has none, spelled as StarCoder's. Their rows start
    /// as [`MaskStart::Mean`].
    pub fim_tokens: bool,
    /// Names the noise of [`MaskStart::Mean`].
    pub seed: u64,
}

/// The token that becomes MASK.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MaskToken {
    /// One that the tokenizer names.
    Named(String),
    /// One by its id, named or not.
    Id(u32),
    /// A new one: the first id that no token has, in a row that the embedding holds unused or one more row.
    Append {
        /// The tokenizer's spelling of it.
        name: String,
    },
}

impl FromStr for MaskToken {
    type Err = String;

    /// `append`, `append=NAME`, an id, or a token's name.
    fn from_str(text: &str) -> Result<Self, String> {
        match (text.split_once('='), text.parse()) {
            _ if text.is_empty() => Err("expected a token's name, an id, or append".into()),
            _ if text == "append" => Ok(Self::Append { name: MASK.into() }),
            (Some(("append", "")), _) => {
                Err("append= names no token; append alone names it".into())
            }
            (Some(("append", name)), _) => Ok(Self::Append { name: name.into() }),
            (_, Ok(id)) => Ok(Self::Id(id)),
            _ => Ok(Self::Named(text.into())),
        }
    }
}

/// The start of the MASK embedding (choice 10).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MaskStart {
    /// As the checkpoint holds it.
    AsIs,
    /// The mean of all rows plus noise of a hundredth of their spread ([`mean_row`]).
    Mean,
}

/// Rows to be written in place of a tensor's own: tensor, row, values.
pub(super) type NewRow = (Name, usize, Vec<f32>);

/// Changes configuration and tokenizer, and gives the rows that change with them.
pub(super) fn apply(
    weights: &Weights,
    config: &mut Config,
    side: &mut CarriedFiles,
    to: &ToBlockDiffusion,
) -> Result<Vec<NewRow>> {
    let appends = matches!(to.mask_token, Some(MaskToken::Append { .. }));
    let id = mask_id(config, side, to.mask_token.as_ref())?;
    let bounds = config.eos_token_ids.iter().copied().chain(config.bos_token_id);
    let bounds: Vec<u32> = bounds.chain(config.pad_token_id).collect();
    if bounds.contains(&id) {
        let reason = format!("id {id} begins, ends or pads texts and can't also be MASK");
        return Err(Error::Request(reason));
    }
    let row = id as usize;
    let start =
        to.mask_embedding.unwrap_or(if appends { MaskStart::Mean } else { MaskStart::AsIs });
    let new_row = row == config.vocab_size;
    if new_row && start == MaskStart::AsIs {
        let reason = format!("an appended row has no values yet: {} mean", Knob::MaskEmbedding);
        return Err(unsupported(reason));
    }
    config.vocab_size = config.vocab_size.max(row + 1);
    let marks = if to.fim_tokens { fim_ids(config, side)? } else { Vec::new() };
    if let Some(mark) = marks.iter().find(|mark| **mark == id || bounds.contains(mark)) {
        let reason = format!(
            "the first ids that no token has, where marks for filling in the middle go, are in use: {mark} is MASK, or \
             begins, ends or pads texts; {} append puts MASK elsewhere",
            Knob::MaskToken
        );
        return Err(unsupported(reason));
    }
    let four = const { NonZeroUsize::new(4).expect("not zero") };
    let block_size = to.block_size.or(config.block_size()).unwrap_or(four);
    config.mode = Mode::BlockDiffusion { block_size, mask_token_id: Some(id) };
    config.attention = Attention::BlockCausal;
    config.family = None;
    config.validate()?;
    let mut rows = Vec::new();
    if start == MaskStart::Mean {
        rows.push((Name::EMBED, row, started(weights, Name::EMBED, to.seed, 0)?));
    }
    if new_row && !config.tie_word_embeddings {
        // The head never has to predict MASK; a mean logit neither helps nor hurts the other tokens.
        rows.push((Name::HEAD, row, started(weights, Name::HEAD, to.seed, 1)?));
    }
    for (mark, number) in marks.into_iter().zip(1..) {
        let row = mark as usize;
        rows.push((Name::EMBED, row, started(weights, Name::EMBED, to.seed, 2 * number)?));
        if !config.tie_word_embeddings {
            rows.push((Name::HEAD, row, started(weights, Name::HEAD, to.seed, 2 * number + 1)?));
        }
    }
    Ok(rows)
}

/// Appends the marks of filling in the middle; their ids.
fn fim_ids(config: &mut Config, side: &mut CarriedFiles) -> Result<Vec<u32>> {
    let format = FimFormat::named("starcoder").expect("one of the formats");
    if let Some(tokenizer) = side.open_tokenizer()? {
        if let Some(own) = FimFormat::find(|name| tokenizer.token_to_id(name)) {
            let marks: Vec<_> = own.marks().collect();
            let reason =
                format!("the tokenizer fills in the middle already, by {}", marks.join(" "));
            return Err(Error::Request(reason));
        }
        if let Some(mark) = format.marks().find(|mark| tokenizer.token_to_id(mark).is_some()) {
            let reason = format!("the tokenizer has `{mark}` and not all marks that go with it");
            return Err(Error::Request(reason));
        }
    }
    let ids: Vec<u32> =
        format.marks().map(|mark| side.append_token(mark)).collect::<Result<_>>()?;
    let rows = ids.iter().map(|id| *id as usize + 1).max().unwrap_or(0);
    config.vocab_size = config.vocab_size.max(rows);
    Ok(ids)
}

fn mask_id(config: &Config, side: &mut CarriedFiles, token: Option<&MaskToken>) -> Result<u32> {
    let tokenizer = side.open_tokenizer()?;
    let named = |name: &str| tokenizer.as_ref().and_then(|tokenizer| tokenizer.token_to_id(name));
    let id = match token {
        Some(MaskToken::Append { name }) if tokenizer.is_some() => {
            check_name(name)?;
            let id = side.append_token(name)?;
            side.name_mask(name)?;
            return Ok(id);
        }
        Some(MaskToken::Append { .. }) => return Ok(config.vocab_size as u32),
        Some(MaskToken::Id(id)) => *id,
        Some(MaskToken::Named(name)) => named(name).ok_or_else(|| {
            Error::Request(format!(
                "the tokenizer has no token `{name}`; name one that it has, or append"
            ))
        })?,
        None => config.mask_token_id().or_else(|| named(MASK)).ok_or_else(|| {
            unsupported(format!(
                "the checkpoint names no MASK token: {} NAME, an id, or append",
                Knob::MaskToken
            ))
        })?,
    };
    if id as usize >= config.vocab_size {
        let rows = config.vocab_size;
        let reason =
            format!("{} {id}: the embedding has {rows} rows; append adds one", Knob::MaskToken);
        return Err(unsupported(reason));
    }
    if let Some(tokenizer) = &tokenizer
        && let Some(name) = tokenizer.id_to_token(id)
    {
        if !tokenizer.is_special(id) {
            let reason = format!(
                "token {id} is `{name}`, which ordinary text contains; choose a special token, or append"
            );
            return Err(Error::Request(reason));
        }
        let marks = FimFormat::find(|name| tokenizer.token_to_id(name));
        if marks.is_some_and(|marks| marks.marks().any(|mark| mark == name)) {
            let reason = format!(
                "token {id} is `{name}`, by which the tokenizer fills in the middle; choose another special token, or append"
            );
            return Err(Error::Request(reason));
        }
        side.name_mask(&name)?;
    }
    Ok(id)
}

/// Refuses a name that ordinary text may contain: the tokenizer would read that text as MASK.
fn check_name(name: &str) -> Result<()> {
    let inner = name.strip_prefix(['<', '[', '{', '|']);
    let inner = inner.and_then(|rest| rest.strip_suffix(['>', ']', '}', '|']));
    let is_name = |inner: &str| {
        let letters = inner.chars().filter(|c| c.is_alphabetic()).count();
        letters >= 4 && !inner.contains(|c: char| c.is_whitespace() || c.is_control())
    };
    let is_mark = FimFormat::all_marks().contains(&name);
    match inner.is_some_and(is_name) && !is_mark {
        true => Ok(()),
        false => Err(Error::Request(format!(
            "{} append={}: a name stands in brackets, has four letters or more and no blanks, and is no mark for filling in the \
             middle, as {MASK}: other text that holds it would become MASK",
            Knob::MaskToken,
            lacuna_files::short(&name.escape_debug().to_string())
        ))),
    }
}

/// The mean row of a table, read a few thousand rows at a time.
fn started(weights: &Weights, name: Name, seed: u64, row: u64) -> Result<Vec<f32>> {
    let matrix = weights.matrix(&name.to_string())?;
    let ids: Vec<u32> = (0..matrix.rows() as u32).collect();
    let rows = |ids: &[u32]| Ok(matrix.rows_f32(Backend::cpu(), ids)?.flatten_all()?.to_vec1()?);
    let chunks = ids.chunks(4096).map(rows);
    let mut rng = stream(seed, Purpose::MaskEmbedding, 0, row);
    Ok(mean_row(matrix.cols(), chunks, || uniform_f32(&mut rng) - 0.5)?)
}

/// A tensor with those of the rows that are its own.
pub(super) fn with_rows<'a>(mut tensor: Outgoing<'a>, rows: &[NewRow]) -> Result<Outgoing<'a>> {
    for (name, row, values) in rows {
        if tensor.name() == name.to_string() {
            tensor = tensor.with_row(*row, values.clone())?;
        }
    }
    Ok(tensor)
}
