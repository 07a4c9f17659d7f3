//! Images at rest: an OCI image layout under the data root, names for what is in it, and the archives by which images
//! travel. An image is a stack of layers and a small document that says what to run.
//!
//! Try it without us: `skopeo copy docker-archive:image.tar oci:layout:name`, then `cat layout/index.json`.

pub mod change;
mod changes;
pub mod commit;
mod config;
mod delta;
mod digest;
mod expand;
mod extract;
mod instruction;
mod layer;
mod legacy;
mod load;
mod members;
mod pack;
mod parts;
mod pax;
mod place;
mod reference;
mod remove;
mod room;
mod save;
mod sparse;
mod store;
mod unpack;
mod usage;

pub use change::Change;
pub use changes::{Container, IMAGE_ID, Kind};
pub use config::{Config, Execution, History};
pub use digest::Digest;
pub use layer::ensure;
pub use load::{Loaded, load, load_stream};
pub use pack::pack_named;
pub use reference::Reference;
pub use remove::{Removed, in_use, prune, remove, tag};
pub use room::Images;
pub use save::{Format, save};
pub use store::{Image, Store};
pub use unpack::unpack;
pub use usage::{Share, Usage, usage};
