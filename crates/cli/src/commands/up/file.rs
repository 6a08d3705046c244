//! `marill.toml`: a table for each role, in it the role's flags, and of `serve` the partition.
//!
//! Values reach the roles as variables of their flags, not as arguments: those everyone on the
//! machine can read. A variable that is set already goes first.

use std::{collections::BTreeMap, ops::Range, path::Path};

use anyhow::{anyhow, bail};
use clap::{ArgAction, Command};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::output::failure::BadInput;

/// Roles in the order in which they start.
pub(super) const ROLES: [&str; 4] = ["dealer", "serve", "party", "gateway"];

/// What the file says of one role: its flags by name.
pub(super) type Flags = BTreeMap<String, String>;

/// What the file says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Roles {
    pub(super) partition: String,
    flags: BTreeMap<&'static str, Flags>,
}

impl Roles {
    /// A role's flags; none where it has no table.
    pub(super) fn of(&self, role: &str) -> Option<&Flags> {
        self.flags.get(role)
    }

    /// A flag of a role.
    pub(super) fn flag(&self, role: &str, name: &str) -> Option<&str> {
        self.of(role)?.get(name).map(String::as_str)
    }
}

/// Reads the text of a file called `path`; `program` knows the roles' flags.
///
/// # Errors
/// [`BadInput`] naming the line and key that is not understood.
pub(super) fn parse(text: &str, path: &Path, program: &Command) -> anyhow::Result<Roles> {
    let reader = Reader { text, path };
    let (root, errors) = DeTable::parse_recoverable(text);
    if let Some(error) = errors.first() {
        let place = error.span().unwrap_or(0..0);
        return Err(reader.refuse(&place, error.message()));
    }
    let mut partition = None;
    let mut flags = BTreeMap::new();
    for (name, value) in root.get_ref() {
        let Some(role) = ROLES.into_iter().find(|role| *role == name.get_ref()) else {
            let roles = ROLES.join("]`, `[");
            let problem = format!("`{}` is no role: there are `[{roles}]`", name.get_ref());
            return Err(reader.refuse(&name.span(), &problem));
        };
        let DeValue::Table(table) = value.get_ref() else {
            return Err(reader.refuse(&value.span(), &format!("`{role}` is no table")));
        };
        let command = program.find_subcommand(role);
        let command = command.ok_or_else(|| anyhow!("there is no command `{role}`"))?;
        let mut own = Flags::new();
        for (key, value) in table {
            if (role, key.get_ref().as_ref()) == ("serve", "partition") {
                partition = Some(reader.text_of(key, value)?);
                continue;
            }
            let name = key.get_ref().replace('_', "-");
            let value = reader.flag(command, &name, key, value)?;
            if own.insert(name, value).is_some() {
                return Err(reader.refuse(&key.span(), "this flag is there twice"));
            }
        }
        flags.insert(role, own);
    }
    let Some(partition) = partition else {
        return Err(reader.refuse(&(0..0), "`partition` is missing in `[serve]`"));
    };
    Ok(Roles { partition, flags })
}

/// The text, for messages with places.
struct Reader<'a> {
    text: &'a str,
    path: &'a Path,
}

type Key<'a, 'i> = &'a Spanned<std::borrow::Cow<'i, str>>;

impl Reader<'_> {
    fn refuse(&self, at: &Range<usize>, problem: &str) -> anyhow::Error {
        let before = self.text.get(..at.start).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let path = self.path.display();
        BadInput(anyhow!("`{path}`, line {line}: {problem}")).into()
    }

    fn text_of(&self, key: Key<'_, '_>, value: &Spanned<DeValue<'_>>) -> anyhow::Result<String> {
        match value.get_ref() {
            DeValue::String(text) => Ok(text.to_string()),
            _ => Err(self.refuse(&value.span(), &format!("`{}` is no text", key.get_ref()))),
        }
    }

    /// The value of a flag, as its variable takes it.
    fn flag(
        &self,
        command: &Command,
        name: &str,
        key: Key<'_, '_>,
        value: &Spanned<DeValue<'_>>,
    ) -> anyhow::Result<String> {
        let role = command.get_name();
        let mut all = command.get_arguments();
        let Some(arg) = all.find(|arg| arg.get_long() == Some(name)) else {
            let problem = format!("`marill {role}` has no flag `--{name}`");
            return Err(self.refuse(&key.span(), &problem));
        };
        let is_switch = matches!(arg.get_action(), ArgAction::SetTrue | ArgAction::SetFalse);
        let text = match (is_switch, value.get_ref()) {
            (true, DeValue::Boolean(on)) => on.to_string(),
            (true, _) => {
                let problem = format!("`--{name}` is a switch: `true` or `false`");
                return Err(self.refuse(&value.span(), &problem));
            }
            (false, DeValue::String(text)) => text.to_string(),
            (false, DeValue::Integer(number)) => number.to_string(),
            (false, DeValue::Float(number)) => number.to_string(),
            (false, _) => {
                let problem = format!("`--{name}` takes one text or number");
                return Err(self.refuse(&value.span(), &problem));
            }
        };
        Ok(text)
    }
}

/// Refuses what the roles of one machine cannot be told, or do not need.
///
/// # Errors
/// [`BadInput`] naming the table.
pub(super) fn check(roles: &Roles, path: &Path) -> anyhow::Result<()> {
    let refuse = |problem: &str| BadInput(anyhow!("`{}`: {problem}", path.display()));
    let dealer_elsewhere = roles.flag("serve", "dealer").is_some();
    let alone = roles.flag("serve", "setting") == Some("2pc");
    if roles.of("dealer").is_some() && alone {
        bail!(refuse(
            "there is no dealer in the setting `2pc`, but a table `[dealer]`"
        ));
    }
    if roles.of("dealer").is_some() && dealer_elsewhere {
        bail!(refuse(
            "`serve.dealer` names another dealer beside the table `[dealer]`"
        ));
    }
    if roles.of("party").is_some() && roles.flag("serve", "e0") != Some("party") {
        bail!(refuse(
            "a table `[party]` needs `e0 = \"party\"` in `[serve]`"
        ));
    }
    Ok(())
}
