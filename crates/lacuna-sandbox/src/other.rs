//! Refuses to run anything on systems that have none of the mechanisms.

use crate::{Error, Missing, Policy, Program, Report};

pub(crate) fn missing(_policy: &Policy) -> Vec<Missing> {
    vec![Missing::Landlock, Missing::Seccomp]
}

pub(crate) fn run(_program: &Program, _policy: &Policy) -> Result<Report, Error> {
    Err(Error::Unsupported { system: std::env::consts::OS })
}

pub(crate) fn give_folder(_policy: &Policy) -> Result<(), Error> {
    Ok(())
}
