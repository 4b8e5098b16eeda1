//! `--allow` and `--allow-leakage`: what training and evaluation may share.

use clap::Args;
use clap::ValueEnum;

use crate::leakage::Allowed;
use crate::leakage::SharedKind;

/// What training and evaluation may share where it is meant.
#[derive(Args, Clone)]
pub struct LeakageArguments {
    /// Permit training and evaluation rows to share this; may be repeated.
    #[arg(long, value_enum, value_name = "KIND")]
    allow: Vec<Shared>,
    /// Permit training and evaluation to share anything, even the same rows.
    #[arg(long)]
    allow_leakage: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shared {
    /// Ids.
    Id,
    /// Audio: the contents of a file, in spans that overlap.
    Audio,
    /// Speakers.
    Speaker,
    /// Groups: programmes, documents.
    Group,
}

impl LeakageArguments {
    /// What may be shared.
    pub fn allowed(&self) -> Allowed {
        if self.allow_leakage {
            return Allowed::all();
        }
        let kind = |shared: &Shared| match shared {
            Shared::Id => SharedKind::Id,
            Shared::Audio => SharedKind::Audio,
            Shared::Speaker => SharedKind::Speaker,
            Shared::Group => SharedKind::Group,
        };
        Allowed(self.allow.iter().map(kind).collect())
    }
}
