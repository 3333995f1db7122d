//! Packs corpora once: what is kept is found again, and packed anew where anything differs or is damaged.

use crate::packs::options;
use lacuna_data::cache::Step;
use lacuna_data::{CorpusOptions, HoleOrder, Holes, PackCache, PackOptions, PackedCorpus};
use std::fs;
use std::path::{Path, PathBuf};

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir(place.src()).unwrap();
        for n in 0..30 {
            let text = format!("def f{n}(x):\n    return x + {n}\n").repeat(4);
            fs::write(place.src().join(format!("{n}.py")), text).unwrap();
        }
        place
    }

    fn src(&self) -> PathBuf {
        self.0.path().join("src")
    }

    fn cache(&self) -> PathBuf {
        self.0.path().join("cache")
    }

    fn open_with(
        &self,
        corpus: &CorpusOptions,
        options: &PackOptions<'_>,
    ) -> (PackedCorpus, Vec<Step>) {
        let mut told = vec![];
        let cache = self.cache();
        let cache = PackCache { folder: &cache, verify: true };
        let packed = cache.open(&[self.src()], corpus, options, &mut |step| told.push(step));
        (packed.unwrap(), told)
    }

    fn open(&self) -> (PackedCorpus, Vec<Step>) {
        self.open_with(&CorpusOptions::default(), &options(16))
    }

    /// The packed corpora that are kept.
    fn kept(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.cache()).unwrap().map(|entry| entry.unwrap().path());
        let mut folders: Vec<_> = entries.filter(|path| path.is_dir()).collect();
        folders.sort();
        folders
    }
}

fn windows(packed: &PackedCorpus) -> Vec<Vec<u32>> {
    packed.train.iter().map(|window| window.unwrap().tokens).collect()
}

#[test]
fn a_corpus_is_packed_once_and_again_when_anything_differs() {
    let place = Place::new();
    let (first, told) = place.open();
    assert!(!first.is_reused && told.iter().any(|step| matches!(step, Step::Packing(_))));
    let (second, told) = place.open();
    assert!(second.is_reused && !told.iter().any(|step| matches!(step, Step::Packing(_))));
    assert!(told.iter().any(|step| matches!(step, Step::Verifying(..))));
    assert_eq!(windows(&first), windows(&second));
    assert!(first.held_out.is_some() && second.held_out.is_some());
    let mut kept = 1;
    let mut differs = |what: &str, corpus: &CorpusOptions, options: &PackOptions<'_>| {
        assert!(!place.open_with(corpus, options).0.is_reused, "{what}");
        kept += 1;
        assert_eq!(place.kept().len(), kept, "{what}");
    };
    let plain = CorpusOptions::default();
    differs("window", &plain, &options(32));
    differs("end", &plain, &PackOptions { document_end: 3, ..options(16) });
    differs("part", &plain, &PackOptions { held_out: 0.3, ..options(16) });
    let holes =
        |seed| Some(Holes::new(&crate::packs::TOKENIZER, 0.5, HoleOrder::Model, seed).unwrap());
    differs("holes", &plain, &PackOptions { holes: holes(1), ..options(16) });
    differs("seed", &plain, &PackOptions { holes: holes(2), ..options(16) });
    differs("filter", &CorpusOptions { skip_generated: true, ..plain.clone() }, &options(16));
    // The threads make no difference to the bytes, and none here.
    let threads = PackOptions { threads: std::num::NonZeroUsize::MIN, ..options(16) };
    assert!(place.open_with(&plain, &threads).0.is_reused);
    // The same length and the same time, but another text.
    let file = place.src().join("3.py");
    let (before, time) =
        (fs::read_to_string(&file).unwrap(), fs::metadata(&file).unwrap().modified().unwrap());
    fs::write(&file, before.replace("x + 3", "x - 3")).unwrap();
    fs::File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
    let (changed, _) = place.open();
    assert!(!changed.is_reused && windows(&changed) != windows(&first));
    fs::write(&file, before).unwrap();
    assert!(place.open().0.is_reused);
}

#[test]
fn what_is_damaged_is_told_and_packed_again() {
    let place = Place::new();
    let (first, _) = place.open();
    let expected = windows(&first);
    drop(first);
    let folder = place.kept().remove(0);
    let shard = folder.join("train/shard-00000.bin");
    let damages: [&dyn Fn(&Path); 4] = [
        &|shard| {
            let mut bytes = fs::read(shard).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
            fs::write(shard, bytes).unwrap();
        },
        &|shard| fs::write(shard, &fs::read(shard).unwrap()[..200]).unwrap(),
        &|shard| fs::remove_file(shard).unwrap(),
        &|shard| fs::write(shard.with_file_name("manifest.json"), "{").unwrap(),
    ];
    for damage in damages {
        damage(&shard);
        let (packed, told) = place.open();
        assert!(!packed.is_reused && windows(&packed) == expected);
        let damaged = told.iter().filter(|step| matches!(step, Step::Damaged(_)));
        assert_eq!(damaged.count(), 1, "{told:?}");
        assert_eq!(place.kept().len(), 1, "nothing is left of the damaged one");
        assert!(place.open().0.is_reused);
    }
}

#[test]
fn many_at_once_get_the_same_and_one_of_them_packs() {
    let place = Place::new();
    let packed: Vec<(bool, Vec<Vec<u32>>)> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let (packed, _) = place.open();
                    (packed.is_reused, windows(&packed))
                })
            })
            .collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(packed.iter().filter(|(is_reused, _)| !is_reused).count(), 1);
    assert!(packed.iter().all(|(_, windows)| *windows == packed[0].1));
    // The leftovers of a writer that was killed go with the next packing.
    let left = place.cache().join(".0123.99999999-0.partial");
    fs::create_dir(&left).unwrap();
    place.open_with(&CorpusOptions::default(), &options(8));
    assert!(!left.exists());
    assert_eq!(place.kept().len(), 2);
}
