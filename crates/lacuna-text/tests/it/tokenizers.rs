//! Reads tokenizers that no tool writes: what the library behind them would panic at is refused, by
//! file and part.
use lacuna_text::{Error, Settings, Tokenizer};
use serde_json::{Value, json};

fn base() -> Value {
    json!({"version":"1.0","truncation":null,"padding":null,"added_tokens":[],
     "normalizer":null,"pre_tokenizer":null,"post_processor":null,"decoder":null,
     "model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,
       "vocab":{"a":0,"b":1," ":2,"A":3,"ab":4,"Ġ":5,"é":6,"▁":7},"merges":["a b"]}})
}
fn odd_files() -> Vec<(String, Value)> {
    let mut cases: Vec<(String, Value)> = vec![];
    let rep = |p: Value, c: &str| json!({"type":"Replace","pattern":p,"content":c});
    let pats = [
        json!({"String":""}),
        json!({"Regex":""}),
        json!({"Regex":"a*"}),
        json!({"Regex":"$"}),
        json!({"Regex":"(?=b)"}),
        json!({"String":"a"}),
        json!({"Regex":"\\b"}),
        json!({"Regex":"x|"}),
    ];
    for key in ["normalizer", "pre_tokenizer", "decoder"] {
        let mut parts: Vec<Value> =
            pats.iter().flat_map(|p| [rep(p.clone(), "x"), rep(p.clone(), "")]).collect();
        for p in &pats {
            for b in ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"] {
                for i in [true, false] {
                    parts.push(json!({"type":"Split","pattern":p,"behavior":b,"invert":i}));
                }
            }
        }
        parts.extend([
            json!({"type":"Prepend","prepend":""}), json!({"type":"Prepend","prepend":"é"}),
            json!({"type":"Strip","strip_left":true,"strip_right":true}), json!({"type":"StripAccents"}), json!({"type":"Nmt"}), json!({"type":"NFKD"}),
            json!({"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":true,"lowercase":true}),
            json!({"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true}), json!({"type":"ByteLevel"}),
            json!({"type":"Lowercase"}), json!({"type":"Precompiled","precompiled_charsmap":"AAAA"}), json!({"type":"Precompiled","precompiled_charsmap":""}),
            json!({"type":"Metaspace","replacement":" ","prepend_scheme":"always","split":true}), json!({"type":"Metaspace","replacement":"é","prepend_scheme":"first"}),
            json!({"type":"CharDelimiterSplit","delimiter":"a"}), json!({"type":"Punctuation","behavior":"Removed"}), json!({"type":"Digits","individual_digits":true}),
            json!({"type":"FixedLength","length":0}), json!({"type":"FixedLength","length":u64::MAX}), json!({"type":"FixedLength","length":1}), json!({"type":"UnicodeScripts"}), json!({"type":"Whitespace"}), json!({"type":"WhitespaceSplit"}), json!({"type":"BertPreTokenizer"}),
            json!({"type":"Strip","content":" ","start":u64::MAX,"stop":0}), json!({"type":"Strip","content":" ","start":0,"stop":u64::MAX}), json!({"type":"Strip","content":" ","start":1,"stop":1}), json!({"type":"Strip","content":"a","start":3,"stop":3}),
            json!({"type":"BPEDecoder","suffix":""}), json!({"type":"BPEDecoder","suffix":"a"}), json!({"type":"CTC","pad_token":"","word_delimiter_token":"","cleanup":true}), json!({"type":"WordPiece","prefix":"","cleanup":true}), json!({"type":"ByteFallback"}), json!({"type":"Fuse"}),
            json!({"type":"Sequence","decoders":[]}), json!({"type":"Sequence","normalizers":[]}), json!({"type":"Sequence","pretokenizers":[]}),
            json!({"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"BPEDecoder","suffix":"a"}]}),
        ]);
        for p in parts {
            let mut t = base();
            t[key] = p.clone();
            cases.push((format!("{key} {p}"), t.clone()));
            t["added_tokens"] = json!([{"id":7,"content":"é","single_word":false,"lstrip":true,"rstrip":true,"normalized":true,"special":false},{"id":3,"content":"A","single_word":true,"lstrip":true,"rstrip":true,"normalized":true,"special":false},{"id":0,"content":"a","single_word":false,"lstrip":false,"rstrip":false,"normalized":true,"special":true}]);
            cases.push((format!("added {key} {p}"), t));
        }
    }
    for m in [
        json!({"type":"BPE","dropout":1.0,"vocab":{"a":0},"merges":[]}),
        json!({"type":"BPE","dropout":2.0,"vocab":{"a":0},"merges":[]}),
        json!({"type":"BPE","unk_token":"zz","vocab":{"a":0},"merges":[]}),
        json!({"type":"BPE","end_of_word_suffix":"</w>","continuing_subword_prefix":"##","vocab":{"a":0,"##b":1},"merges":[]}),
        json!({"type":"BPE","end_of_word_suffix":"","continuing_subword_prefix":"","byte_fallback":true,"vocab":{"a":0,"<0x61>":1},"merges":[]}),
        json!({"type":"BPE","vocab":{"":0,"a":1},"merges":[["","a"]]}),
        json!({"type":"BPE","vocab":{"":0,"a":1},"merges":[" "]}),
        json!({"type":"Unigram","unk_id":0,"vocab":[["a",0.0],["b",-1.0]]}),
        json!({"type":"Unigram","unk_id":5,"vocab":[["a",0.0],["b",-1.0]]}),
        json!({"type":"Unigram","unk_id":null,"vocab":[["a",0.0]]}),
        json!({"type":"Unigram","unk_id":0,"vocab":[["",0.0]]}),
        json!({"type":"Unigram","unk_id":0,"vocab":[["a",1e308],["b",1e308],["ab",-1e308]]}),
        json!({"type":"Unigram","unk_id":0,"vocab":[]}),
        json!({"type":"Unigram","vocab":[]}),
        json!({"type":"Unigram","unk_id":0,"byte_fallback":true,"vocab":[["<unk>",0.0],["a",-1.0],["<0xC3>",0.0]]}),
        json!({"type":"Unigram","unk_id":0,"vocab":[["a",0.0],["a",-1.0]]}),
        json!({"type":"WordPiece","unk_token":"zz","continuing_subword_prefix":"","max_input_chars_per_word":0,"vocab":{"a":0}}),
        json!({"type":"WordPiece","unk_token":"a","continuing_subword_prefix":"##","max_input_chars_per_word":100,"vocab":{"a":0,"":1}}),
        json!({"type":"WordPiece","unk_token":"a","continuing_subword_prefix":"##","max_input_chars_per_word":100,"vocab":{"a":0,"a ":1}}),
        json!({"type":"WordLevel","unk_token":"zz","vocab":{"a":0}}),
        json!({"type":"WordLevel","unk_token":"a","vocab":{"a":0}}),
    ] {
        let mut t = base();
        t["model"] = m.clone();
        cases.push((format!("model {m}"), t));
    }
    for (k, v) in [
        (
            "truncation",
            json!({"max_length":0,"strategy":"LongestFirst","stride":9,"direction":"Right"}),
        ),
        (
            "truncation",
            json!({"max_length":1,"strategy":"OnlySecond","stride":9,"direction":"Left"}),
        ),
        (
            "padding",
            json!({"strategy":{"Fixed":usize::MAX},"direction":"Right","pad_to_multiple_of":0,"pad_id":9,"pad_type_id":0,"pad_token":"x"}),
        ),
    ] {
        let mut t = base();
        t[k] = v.clone();
        cases.push((format!("{k} {v}"), t.clone()));
        t["model"] = json!({"type":"Unigram","unk_id":0,"vocab":[["a",0.0],["b",-1.0]]});
        cases.push((format!("unigram {k} {v}"), t));
    }
    cases
}

const TEXTS: [&str; 11] = [
    "",
    "a",
    "ab",
    " ",
    "   ",
    "aab ba",
    "e\u{301}A\u{e9}",
    "\n a b\t",
    "aaa",
    "xyz\u{1F600}",
    "\u{65e5}",
];

#[test]
fn no_part_of_a_tokenizer_brings_the_program_down() {
    let mut read = 0;
    for (name, json) in odd_files() {
        let Ok(tokenizer) = open(&json) else { continue };
        read += 1;
        for text in TEXTS {
            let _ = (tokenizer.encode_ordinary(text), tokenizer.encode_with_special_tokens(text));
            let Ok(ids) = tokenizer.encode(text) else { continue };
            let _ = (tokenizer.decode(&ids), tokenizer.decode_with_special_tokens(&ids));
            // Twice the same: no part may draw.
            assert_eq!(tokenizer.encode(text).unwrap(), ids, "{name}");
        }
        for ids in
            [&[][..], &[0], &[2], &[2, 2, 2], &[0, 0, 0], &[999], &[7], &[1, 2, 3, 4, 5, 6, 7]]
        {
            let _ = (tokenizer.decode(ids), tokenizer.decode_with_special_tokens(ids));
        }
        let _ = (tokenizer.token_bytes(), tokenizer.to_json());
    }
    assert!(read > 200, "only {read} of the files were read at all");
}

#[test]
fn replacing_nothing_is_refused_by_file_and_part() {
    for pattern in [
        json!({"String": ""}),
        json!({"Regex": ""}),
        json!({"Regex": "a*"}),
        json!({"Regex": "(?=a)"}),
    ] {
        let part = json!({"type": "Replace", "pattern": pattern, "content": "x"});
        for (key, inner) in [("normalizer", "normalizers"), ("decoder", "decoders")] {
            let nested = json!({"type": "Sequence", inner: [{"type": "Sequence", inner: [part]}]});
            for part in [&part, &nested] {
                let mut file = base();
                file[key] = part.clone();
                let error = open(&file).unwrap_err().to_string();
                assert!(
                    error.contains(&format!("m/tokenizer.json: its {key} replaces")),
                    "{error}"
                );
            }
        }
    }
    let split = json!({"type": "Split", "pattern": {"String": ""}, "behavior": "Isolated", "invert": false});
    let mut file = base();
    file["pre_tokenizer"] = split;
    let error = open(&file).unwrap_err().to_string();
    assert!(
        error.contains("m/tokenizer.json: its pre-tokenizer splits at the empty text"),
        "{error}"
    );
}

fn open(file: &Value) -> Result<Tokenizer, Error> {
    let bytes = file.to_string();
    Tokenizer::of_checkpoint(
        bytes.as_bytes(),
        400,
        &Settings::default(),
        "m/tokenizer.json".as_ref(),
    )
}
