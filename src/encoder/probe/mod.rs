//! Heads on encoders: CTC and classification, on a learned sum of frozen layers (`encoder probe`)
//! or with the encoder open (`encoder finetune`).
//!
//! The classifier is that of `HubertForSequenceClassification`, the CTC head that of
//! `HubertForCTC`; with an open encoder both are saved as such. A probe standardises features by
//! the training frames' mean and deviation, so that MFCC and encoders meet the same head.
//! `choose` selects classifier and weight decay by cross-validation over the training speakers.

mod choose;
mod evaluate;
mod export;
mod head;
mod loss;
mod pool;
mod reader;
mod recipe;
mod rows;
mod run;
mod units;
mod work;

pub use self::recipe::BeamSettings;
pub use self::recipe::Choose;
pub use self::recipe::Classifier;
pub use self::recipe::HeadKind;
pub use self::recipe::Open;
pub use self::recipe::Pool;
pub use self::recipe::Recipe;
pub use self::run::Observer;
pub use self::run::run;
