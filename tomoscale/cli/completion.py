"""Scripts that let bash, zsh and fish complete commands, options, values and paths, made from the parser itself."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable, Iterator, Mapping

from tomoscale.cli import values
from tomoscale.cli.command import Program


def script(program: Program, shell: str) -> str:
    """Completion script of a shell."""
    return WRITERS[shell](program)


def words_of(action: argparse.Action) -> tuple[str, ...]:
    """Values that an option may have, or that are likely."""
    if action.choices is not None:
        return tuple(map(str, action.choices))
    return values.SUGGESTIONS.get(action.type, ()) if callable(action.type) else ()


def is_path(action: argparse.Action) -> bool:
    """Whether files are offered for it."""
    return action.type in values.PATHS


def takes_value(action: argparse.Action) -> bool:
    """Whether a value follows it."""
    return action.nargs != 0


def bash(program: Program) -> str:
    """Completion for bash: one function that finds the command on the line and offers what may come next."""
    lines = []
    for name, actions in program.actions.items():
        named = [a for a in actions if a.option_strings]
        placed = [a for a in actions if not a.option_strings]
        strings = [s for a in (*named, HELP) for s in a.option_strings]
        lines.append(f"        {shlex.quote(name)})\n            options={shlex.quote(' '.join(strings))}")
        words = " ".join(w for a in placed for w in words_of(a))
        lines.append(f"            words={shlex.quote(words)} paths={'yes' if any(map(is_path, placed)) else ''}")
        lines.append('            case "$before" in')
        for action in filter(takes_value, named):
            pattern = "|".join(action.option_strings)
            offered = f"words={shlex.quote(' '.join(words_of(action)))} paths={'yes' if is_path(action) else ''}"
            lines.append(f"                {pattern}) options= {offered} ;;")
        lines.append("            esac ;;")
    groups = [
        f"        {shlex.quote(group)}) words={shlex.quote(' '.join(_below(program, group)))} ;;"
        for group in program.groups
    ]
    first = " ".join((*_first_words(program), "--help", "--version", "--json-usage"))
    return BASH.format(
        first=shlex.quote(first),
        groups="|".join(program.groups),
        commands="\n".join((*groups, *lines)),
    )


def zsh(program: Program) -> str:
    """Completion for zsh: a function for each command, in the words of `_arguments`."""
    parts = []
    for name, actions in program.actions.items():
        specs = [_zsh_spec(spec) for action in (*actions, HELP) for spec in _zsh_specs(action)]
        parts.append(f"{_function(name)}() {{\n    _arguments -S \\\n        " + " \\\n        ".join(specs) + "\n}")
    for group in ("", *program.groups):
        names = _below(program, group) if group else _first_words(program)
        described = [_zsh_spec(f"{word}:{_text_of(program, f'{group} {word}'.strip())}") for word in names]
        cases = "\n".join(f"            {word}) {_function(f'{group} {word}'.strip())} ;;" for word in names)
        parts.append(
            ZSH_GROUP.format(function=_function(group), described="\n            ".join(described), cases=cases)
        )
    return "#compdef tomoscale\n\n" + "\n\n".join(parts) + "\n\n" + ZSH_END


def fish(program: Program) -> str:
    """Completion for fish: one line for each word or option."""
    lines = [
        "complete -c tomoscale -f",
        'complete -c tomoscale -n __fish_use_subcommand -l json-usage -d "all commands as JSON"',
    ]
    for word in _first_words(program):
        lines.append(f"complete -c tomoscale -n __fish_use_subcommand -a {word} -d {_fish(_text_of(program, word))}")
    for group in program.groups:
        below = _below(program, group)
        rule = f"__fish_seen_subcommand_from {group}; and not __fish_seen_subcommand_from {' '.join(below)}"
        for word in below:
            lines.append(
                f"complete -c tomoscale -n {_fish(rule)} -a {word} -d {_fish(_text_of(program, f'{group} {word}'))}"
            )
    for name, actions in program.actions.items():
        rule = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in name.split())
        start = f"complete -c tomoscale -n {_fish(rule)}"
        for action in (*actions, HELP):
            lines += [start + rest for rest in _fish_lines(action)]
    return "\n".join(lines) + "\n"


WRITERS: Mapping[str, Callable[[Program], str]] = {"bash": bash, "zsh": zsh, "fish": fish}

HELP = argparse.Action(("--help",), "help", nargs=0, help="show options and an example")


def _first_words(program: Program) -> list[str]:
    return list(dict.fromkeys(name.split()[0] for name in program.commands))


def _below(program: Program, group: str) -> list[str]:
    return [name.split()[1] for name in program.commands if name.startswith(f"{group} ")]


def _text_of(program: Program, name: str) -> str:
    return program.groups[name] if name in program.groups else program.commands[name].text


def _function(name: str) -> str:
    return "_tomoscale" + "".join(f"_{word}" for word in re.split(r"\W+", name) if word)


def _zsh_specs(action: argparse.Action) -> Iterator[str]:
    """Spec of each spelling of an option, or of an argument, for `_arguments`."""
    text = re.sub(r"([\[\]:\\])", r"\\\1", (action.help or "").replace("%%", "%"))
    words = " ".join(words_of(action))
    value = f"({words})" if words else "_files" if is_path(action) else " "
    if not action.option_strings:
        many = {"+": "*", "?": ":"}.get(str(action.nargs), "")
        yield f"{many}:{action.dest}:{value}"
    count = action.nargs if isinstance(action.nargs, int) else 1
    repeated = "*" if action.nargs == "+" else ""
    for string in action.option_strings:
        yield f"{repeated}{string}[{text}]" + f":{action.dest}:{value}" * count


def _zsh_spec(spec: str) -> str:
    return "'" + spec.replace("'", "'\\''") + "'"


def _fish_lines(action: argparse.Action) -> Iterator[str]:
    text = _fish((action.help or "").replace("%%", "%"))
    words = f" -xa {_fish(' '.join(words_of(action)))}" if words_of(action) else ""
    value = words or (" -rF" if is_path(action) else " -x" if takes_value(action) else "")
    if not action.option_strings and (words or is_path(action)):
        yield f" -a {_fish(' '.join(words_of(action)))}" if words else " -F"
    for string in action.option_strings:
        yield f" -l {string.lstrip('-')}{value} -d {text}"


def _fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


BASH = """# completion of tomoscale for bash; made by: tomoscale completion bash
_tomoscale() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}"
    local command= word n options= words= paths=
    # bash splits --option=value into three words.
    if [[ $current == = ]]; then
        current=
    elif [[ $before == = ]]; then
        before="${{COMP_WORDS[COMP_CWORD-2]}}"
    fi
    for ((n = 1; n < COMP_CWORD; n++)); do
        word="${{COMP_WORDS[n]}}"
        [[ $word == -* ]] && continue
        if [[ -z $command ]]; then
            command=$word
            case "$word" in {groups}) continue ;; esac
            break
        fi
        command="$command $word"
        break
    done
    case "$command" in
        '') words={first} ;;
{commands}
    esac
    COMPREPLY=()
    if [[ $current == -* || -z $words$paths ]]; then
        words="$words $options"
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
    if [[ -n $paths && $current != -* ]]; then
        compopt -o filenames 2>/dev/null
        mapfile -t -O "${{#COMPREPLY[@]}}" COMPREPLY < <(compgen -f -- "$current")
    fi
}}
complete -F _tomoscale tomoscale
"""

ZSH_GROUP = """{function}() {{
    local line state
    _arguments -C '1: :->command' '*::argument:->rest'
    case $state in
        command)
            local -a commands=(
            {described}
            )
            _describe command commands ;;
        rest)
            case $line[1] in
{cases}
            esac ;;
    esac
}}"""

ZSH_END = """if [ "$funcstack[1]" = _tomoscale ]; then
    _tomoscale "$@"
else
    compdef _tomoscale tomoscale
fi
"""
