//! Collects the files that a run's checkpoints have beside their weights, and finds the format of its conversations.

use lacuna_checkpoint::Weights;
use lacuna_text::chat::SEED_CODER_TEMPLATE;
use lacuna_text::{ChatTemplate, Facts, ModelFiles, Settings, Tokenizer};
use std::path::Path;

use super::SpecialIds;
use crate::error::{Result, TrainError};
use crate::recipe::Recipe;

/// The tokenizer that a recipe or a command names: a `tokenizer.json`, the folder of a checkpoint, or a GGUF file.
///
/// # Errors
/// Errors if the file is missing, damaged, or carries no tokenizer.
pub fn open_tokenizer(path: &Path) -> Result<Tokenizer> {
    if path.is_dir() {
        return Ok(Tokenizer::from_file(path.join("tokenizer.json"))?);
    }
    if !path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) {
        return Ok(Tokenizer::from_file(path)?);
    }
    let weights = Weights::inspect(path)?;
    let Some(json) = weights.tokenizer_json()? else {
        let reason = "the file carries no tokenizer; name a tokenizer.json";
        return Err(TrainError::File { path: path.to_owned(), reason: reason.into() });
    };
    let files = carried(&weights)?;
    let settings = Settings::read(&files, path)?;
    let rows = weights.config().vocab_size;
    Ok(Tokenizer::of_checkpoint(json.as_bytes(), rows, &settings, path)?)
}

/// The tokens at which a model ends a text, if `path` is a checkpoint: a folder or a GGUF file.
pub fn ends_of_text(path: &Path) -> Vec<u32> {
    Weights::inspect(path).map_or(vec![], |weights| weights.config().eos_token_ids.clone())
}

/// The format of conversations that a command names: `model`, that of the checkpoint or the tokenizer's folder `path`;
/// `seed-coder`; or a `.jinja` file. Without a name it is the model's, else Seed-Coder's.
///
/// # Errors
/// Errors if the model has no format although it is asked for, or a file holds no template.
pub fn open_template(path: &Path, name: Option<&str>) -> Result<ChatTemplate> {
    let folder = if path.is_dir() { Some(path) } else { path.parent() };
    let settings = match Weights::inspect(path) {
        Ok(weights) => Settings::read(&carried(&weights)?, path)?,
        Err(_) => match folder.filter(|folder| folder.is_dir()) {
            Some(folder) => Settings::read(&ModelFiles::of_tokenizer(folder)?, folder)?,
            None => Settings::default(),
        },
    };
    let own = ChatTemplate::from_settings(&settings)?;
    Ok(match (name, own) {
        (None | Some("model"), Some(own)) => own,
        (Some("model"), None) => {
            let reason =
                "there is no chat template beside the tokenizer; name seed-coder or a .jinja file";
            return Err(TrainError::File { path: path.to_owned(), reason: reason.into() });
        }
        (None | Some("seed-coder"), _) => ChatTemplate::seed_coder(),
        (Some(file), _) => ChatTemplate::from_file(Path::new(file), settings.tokens.clone())?.0,
    })
}

/// The files that a checkpoint carries beside its weights.
fn carried(weights: &Weights) -> Result<ModelFiles> {
    let mut files = ModelFiles::default();
    for (name, text) in weights.carried_files()? {
        files.insert(name, text);
    }
    if let Some(template) = weights.chat_template() {
        files.insert("chat_template.jinja", template);
    }
    if let (None, Some(metadata)) = (files.get("README.md"), weights.carried_metadata()?)
        && let Some(card) = metadata.card()
    {
        files.insert("README.md", card);
    }
    files.remove_code();
    Ok(files)
}

/// The files that go into every checkpoint, and the format of conversations if the recipe has some.
pub(super) fn side_files(
    recipe: &Recipe,
    tokenizer: &Tokenizer,
    special: SpecialIds,
) -> Result<(ModelFiles, Option<ChatTemplate>)> {
    let mut files = ModelFiles::default();
    let mut settings = Settings::default();
    let mut max_positions =
        recipe.model.max_positions.unwrap_or(4 * recipe.data.window).max(recipe.data.window);
    let mut eos = vec![special.eos];
    if let Some(from) = &recipe.model.from {
        let weights = Weights::inspect(from)?;
        files = carried(&weights)?;
        settings = Settings::read(&files, from)?;
        max_positions = weights.config().max_position_embeddings;
        eos.clone_from(&weights.config().eos_token_ids);
    }
    let tokens = [
        ("bos_token", special.bos),
        ("eos_token", Some(special.eos)),
        ("pad_token", Some(special.pad)),
        ("mask_token", special.mask),
    ];
    for (name, id) in tokens {
        if let Some(token) = id.and_then(|id| tokenizer.id_to_token(id)) {
            settings.tokens.entry(name).or_insert_with(|| token.into());
        }
    }
    let format = match &recipe.sft {
        None => None,
        Some(sft) => {
            let own = ChatTemplate::from_settings(&settings)?;
            let (format, written) = match (sft.template.as_deref(), own) {
                (None | Some("model"), Some(own)) => (own, None),
                (Some("model"), None) => {
                    let reason = "sft.template is `model`, but the run starts from no checkpoint with a chat template; \
                                  use `seed-coder` or a .jinja file";
                    return Err(recipe.fault(reason.into()));
                }
                (None | Some("seed-coder"), _) => {
                    (ChatTemplate::seed_coder(), Some(SEED_CODER_TEMPLATE.to_owned()))
                }
                (Some(file), _) => {
                    let path = Path::new(file);
                    let (format, source) = ChatTemplate::from_file(path, settings.tokens.clone())?;
                    (format, Some(source))
                }
            };
            if let Some(source) = written {
                files.insert("chat_template.jinja", source);
            }
            Some(format)
        }
    };
    let facts = Facts { tokens: &tokens, eos: &eos, max_positions, template: None };
    files.complete(tokenizer, &facts);
    files.insert("tokenizer.json", tokenizer.to_json());
    Ok((files, format))
}
