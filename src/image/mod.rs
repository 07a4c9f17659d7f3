//! Images at rest: an OCI image layout under the data root, names for what is in it, and the archives by which images
//! travel. An image is a stack of layers and a small document that says what to run.
//!
//! Try it without us: `skopeo copy docker-archive:image.tar oci:layout:name`, then `cat layout/index.json`.

pub mod change;
mod config;
mod digest;
mod extract;
mod layer;
mod members;
mod pack;
mod place;
mod reference;
mod sparse;
mod store;

pub use change::Change;
pub use config::{Config, Execution, History};
pub use digest::Digest;
pub use reference::Reference;
pub use store::{Image, Store};
