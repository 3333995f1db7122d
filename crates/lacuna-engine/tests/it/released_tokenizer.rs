//! Takes the tokenizer released with Stable-DiffCoder, which is not in the repository, from end to
//! end: `LACUNA_DIFFCODER_TOKENIZER=…/tokenizer.json cargo test -p lacuna-engine --test it
//! released_tokenizer -- --ignored`.

use candle_core::{DType, Device};
use lacuna_checkpoint::{Config, Mode};
use lacuna_engine::{ConvertOptions, Model, OpenOptions};
use lacuna_model::Transformer;
use lacuna_text::chat::{Message, RenderOptions};
use lacuna_text::fim::Fim;
use std::path::Path;

/// A small model with the released configuration's vocabulary and ids, and the tokenizer beside it.
fn checkpoint(dir: &Path, rows: usize) {
    let config = Config {
        vocab_size: rows,
        hidden_size: 16,
        intermediate_size: 32,
        num_layers: 1,
        num_heads: 2,
        num_kv_heads: 1,
        head_dim: 8,
        tie_word_embeddings: true,
        mode: Mode::BlockDiffusion { block_size: 4.try_into().unwrap(), mask_token_id: Some(5) },
        ..Config::default()
    };
    Transformer::init(config, 1, DType::F32, &Device::Cpu).unwrap().save(dir).unwrap();
    let file =
        std::env::var_os("LACUNA_DIFFCODER_TOKENIZER").expect("set LACUNA_DIFFCODER_TOKENIZER");
    std::fs::copy(file, dir.join("tokenizer.json")).unwrap();
}

#[test]
#[ignore = "needs the file named by LACUNA_DIFFCODER_TOKENIZER"]
fn text_chat_and_holes_are_written_with_the_released_ids_in_both_formats() {
    let dir = tempfile::tempdir().unwrap();
    checkpoint(dir.path(), 155_136);
    let gguf = dir.path().join("m.gguf");
    lacuna_engine::convert(dir.path(), &gguf, &ConvertOptions::default(), &|_, _| {}).unwrap();
    for path in [dir.path(), &gguf] {
        let model = Model::open(path, &OpenOptions::default()).unwrap();
        let tokenizer = model.tokenizer().unwrap();
        assert_eq!(tokenizer.vocab_size(), 155_121);
        let ids = ["<[begin▁of▁sentence]>", "<[PAD▁TOKEN]>", "<[end▁of▁sentence]>"]
            .map(|name| tokenizer.token_to_id(name));
        assert_eq!(ids, [Some(0), Some(1), Some(2)]);
        assert!(tokenizer.is_special(5), "MASK is {:?}", tokenizer.id_to_token(5));
        let text = "def f(x):\n    return x + 12345  # é🙂\n";
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);

        // Chat: paper.md §1, the format built in where no template is there.
        let turns =
            [Message::new("system", "Be brief."), Message::new("user", "Hi <[MASK_TOKEN]>")];
        let options = RenderOptions { add_generation_prompt: true, ..Default::default() };
        let ids = model.chat_format().unwrap().encode(tokenizer, &turns, &options).unwrap();
        assert_eq!(ids.iter().filter(|id| **id == 0).count(), 3, "a begin for each turn");
        assert_eq!(
            ids.iter().filter(|id| **id == 2).count(),
            2,
            "an end for each but the open one"
        );
        assert!(!ids.contains(&5), "a message cannot bring MASK");

        // Holes: suffix, prefix, middle.
        let fim = Fim::from_tokenizer(tokenizer).unwrap();
        assert_eq!((fim.prefix, fim.suffix, fim.middle), (124, 125, Some(126)));
        let prompt = fim.prompt_text(tokenizer, "a = ", " + 1").unwrap();
        let places =
            [125, 124, 126].map(|id| prompt.iter().position(|other| *other == id).unwrap());
        assert!(places.is_sorted() && places[2] == prompt.len() - 1, "{prompt:?}");

        let written =
            lacuna_engine::generate(&model, "fn main() {", &Default::default(), |_| {}).unwrap();
        assert!(!written.tokens.contains(&5), "MASK is never written");
    }
    // Fewer rows than tokens: not this tokenizer's model.
    let small = tempfile::tempdir().unwrap();
    checkpoint(small.path(), 155_000);
    let error = Model::open(small.path(), &OpenOptions::default()).unwrap_err().to_string();
    assert!(error.contains("155121 tokens, the model embeds 155000"), "{error}");
}
