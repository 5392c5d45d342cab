//! The five built-in specialists and the general assistant, embedded in the binary, so that it runs
//! from any folder.

/// File name and text of each built-in specialist, in the order in which the master model lists
/// them.
pub const BUILTIN: [(&str, &str); 6] = [
    ("mnemosyne.toml", include_str!("../../config/specialists/mnemosyne.toml")),
    ("moira.toml", include_str!("../../config/specialists/moira.toml")),
    ("aletheia.toml", include_str!("../../config/specialists/aletheia.toml")),
    ("kairos.toml", include_str!("../../config/specialists/kairos.toml")),
    ("eleos.toml", include_str!("../../config/specialists/eleos.toml")),
    ("nyx.toml", include_str!("../../config/specialists/nyx.toml")),
];
