//! Files of data: what is read from them, and what is said of those that cannot be read.

mod damage;
mod files;
mod folder;
mod rows;
mod sources;
