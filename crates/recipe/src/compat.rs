//! Keys of the version before, which are still read.

use toml::Table;

/// Table, key of the version before, key of this version.
const RENAMED: &[(&str, &str, &str)] = &[("train", "quantise_last_steps", "quantize_last_steps")];

/// The name that a key of a table has in this version.
pub(crate) fn key<'a>(table: &str, name: &'a str) -> &'a str {
    RENAMED
        .iter()
        .find(|(at, old, _)| *at == table && *old == name)
        .map_or(name, |(_, _, new)| new)
}

/// Gives the keys of a recipe the names of this version. A key that is there under both names is
/// left, to be refused as unknown.
pub(crate) fn rename(recipe: &mut Table) {
    for (table, old, new) in RENAMED {
        let Some(table) = recipe.get_mut(*table).and_then(|t| t.as_table_mut()) else {
            continue;
        };
        if !table.contains_key(*new)
            && let Some(value) = table.remove(*old)
        {
            table.insert((*new).into(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_the_version_before_get_their_new_names() {
        let mut recipe: Table = toml::from_str("[train]\nquantise_last_steps = 4\n").unwrap();
        rename(&mut recipe);
        assert_eq!(recipe["train"]["quantize_last_steps"].as_integer(), Some(4));
        assert_eq!(key("train", "quantise_last_steps"), "quantize_last_steps");
        assert_eq!(key("eval", "quantise_last_steps"), "quantise_last_steps");
    }
}
