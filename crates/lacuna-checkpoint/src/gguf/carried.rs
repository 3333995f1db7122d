//! Carries metadata of a GGUF file that says nothing of the computation into another: licence, names, origin.

use super::metadata::Metadata;
use super::parse::Gguf;
use super::reader::Value;

const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
/// The keys that the writer writes itself.
const WRITTEN: [&str; 5] = [
    "general.architecture",
    "general.type",
    "general.alignment",
    "general.file_type",
    "general.quantization_version",
];
/// The most bytes that are carried; real files have some kilobytes.
const MOST_BYTES: usize = 1 << 20;

/// Metadata that goes along from GGUF to GGUF: `general.license` and all else under `general.` that does not describe
/// the file itself, and the id of the unknown token, which no configuration names.
#[derive(Clone, Debug, Default)]
pub struct CarriedMetadata {
    /// Keys, and the values' types and bytes as the file has them.
    entries: Vec<(String, Vec<u8>)>,
    texts: Vec<(String, String)>,
    /// The token for text that the tokenizer does not know, if the file names one.
    pub unknown_token_id: Option<u32>,
}

impl CarriedMetadata {
    /// The metadata of a file that go along, up to a megabyte. `rows` is the number of tokens that its model embeds.
    pub(crate) fn of(gguf: Gguf<'_>, rows: usize) -> Self {
        let mut carried = Self::default();
        let mut left = MOST_BYTES;
        for (key, value) in gguf.metadata() {
            let described = key.starts_with("general.") && !WRITTEN.contains(&key);
            let size = key.len() + value.encoded_len();
            if !(described || key == UNKNOWN) || size > left {
                continue;
            }
            left -= size;
            match value {
                Value::Text(text) => carried.texts.push((key.to_owned(), text.to_owned())),
                Value::Unsigned(id, _) if key == UNKNOWN => {
                    let id = u32::try_from(id).ok().filter(|id| (*id as usize) < rows);
                    carried.unknown_token_id = id;
                }
                _ => {}
            }
            if key != UNKNOWN || carried.unknown_token_id.is_some() {
                carried.entries.push((key.to_owned(), value.encoded()));
            }
        }
        carried
    }

    /// The text under a key.
    pub fn text(&self, key: &str) -> Option<&str> {
        let found = self.texts.iter().find(|(name, _)| name == key);
        found.map(|(_, text)| text.as_str())
    }

    /// A model card that names licence and origin as a GGUF file's metadata do; `None` if they name no licence.
    pub fn card(&self) -> Option<String> {
        let line = |key: &str| self.text(key).filter(|text| !text.contains(['\n', '\r']));
        let yaml = |text: &str| serde_json::Value::from(text).to_string();
        let mut card = format!("---\nlicense: {}\n", yaml(line("general.license")?));
        for (key, name) in
            [("general.license.name", "license_name"), ("general.license.link", "license_link")]
        {
            if let Some(text) = line(key) {
                card += &format!("{name}: {}\n", yaml(text));
            }
        }
        card += &format!("---\n\n# {}\n\n", line("general.name").unwrap_or("Model"));
        card += "Converted from a GGUF file, whose metadata say:\n\n";
        for key in ["license", "organization", "author", "basename", "finetune", "version", "url"] {
            if let Some(text) = line(&format!("general.{key}")) {
                card += &format!("- {key}: {text}\n");
            }
        }
        Some(card)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|(name, _)| name == key)
    }

    pub(super) fn write(&self, metadata: &mut Metadata) {
        for (key, value) in &self.entries {
            metadata.encoded(key, value);
        }
    }
}
