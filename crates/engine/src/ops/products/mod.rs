//! Algorithms of a GPU's matrix products: timed once, then read from a file.
//!
//! cuBLASLt offers several algorithms for a product, and the fastest is found by timing them. Times
//! differ from one process to the next. With them the choice may differ, and the bits of the
//! product. So a choice is stored before it is used: see [`Store`].

mod choices;
mod place;
mod signature;
mod store;

pub use self::choices::Algorithm;
pub use self::choices::Choice;
pub use self::choices::Choices;
pub use self::choices::fastest;
pub use self::place::Machine;
pub use self::place::Variables;
pub use self::place::cache_folder;
pub use self::place::driver_release;
pub use self::signature::FORMS;
pub use self::signature::Form;
pub use self::signature::Shape;
pub use self::signature::Signature;
pub use self::store::Store;
