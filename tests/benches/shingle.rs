//! Speed of words, shingles and signatures.
fn main() {}
