//! Offers block-diffusion code language models under one name: train, measure, write, fill in and
//! edit code.
//!
//! ```no_run
//! use lacuna::{GenerateOptions, Model, OpenOptions};
//!
//! let model = Model::open("runs/tiny/final".as_ref(), &OpenOptions::default())?;
//! let written = lacuna::generate(&model, "def fibonacci(n):\n", &GenerateOptions::default(), |_| {})?;
//! println!("{}", written.text);
//! # Ok::<(), lacuna::Error>(())
//! ```
//!
//! Add this crate if you want all of lacuna under one name. It re-exports the others and holds nothing. Models are
//! opened and decoded by [`engine`], whose names stand here too; the other crates are modules, whole: [`schedules`],
//! [`random`], [`kernels`], [`text`], [`checkpoint`], [`data`], [`model`], [`objective`], [`samplers`],
//! [`likelihood`], [`train`].
//!
//! The program `lacuna` comes from another crate, `lacuna-cli`.

#![forbid(unsafe_code)]

pub use lacuna_checkpoint as checkpoint;
pub use lacuna_data as data;
pub use lacuna_engine as engine;
pub use lacuna_engine::*;
pub use lacuna_kernels as kernels;
pub use lacuna_likelihood as likelihood;
pub use lacuna_model as model;
pub use lacuna_objective as objective;
pub use lacuna_random as random;
pub use lacuna_samplers as samplers;
pub use lacuna_schedules as schedules;
pub use lacuna_text as text;
pub use lacuna_train as train;
