"""How a report looks: on a light screen, on a dark one, and in print."""

from __future__ import annotations

CSS = """
:root { color-scheme: light dark; --ink: #1b1e23; --soft: #5b6470; --line: #d5d9df; --ground: #fff; --warn: #fff7e8;
  --ok-ink: #0b5a8a; --warning-ink: #8a5200; --failed-ink: #a13400; --edge: #b86e00; --shadow: rgba(0, 0, 0, .3); }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --soft: #a2abb6; --line: #3d444d; --ground: #15181c; --warn: #2b2213;
  --ok-ink: #7cc3f0; --warning-ink: #f0b95a; --failed-ink: #ff9d66; --edge: #c98a2e; --shadow: rgba(255, 255, 255, .35); } }
* { box-sizing: border-box; }
html { background: var(--ground); color: var(--ink); -webkit-text-size-adjust: 100%; }
body { font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, "DejaVu Sans", sans-serif;
  max-width: 70rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; overflow-wrap: break-word;
  counter-reset: figure table; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 .75rem; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .75rem; padding-bottom: .25rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.75rem 0 .5rem; }
p { margin: .5rem 0; max-width: 48rem; }
ul { margin: .25rem 0; padding-left: 1.25rem; }
.soft, figcaption { color: var(--soft); font-size: .875rem; }
.caveats { border: 1px solid var(--edge); border-left-width: 6px; background: var(--warn); border-radius: 4px;
  padding: .75rem 1rem; margin: 1.5rem 0; break-inside: avoid; }
.caveats strong { display: block; }
.checks { list-style: none; padding: 0; max-width: 60rem; }
.checks li { display: grid; grid-template-columns: 6.5rem 1fr; gap: .2rem .8rem; padding: .35rem 0; border-bottom: 1px solid var(--line); break-inside: avoid; }
.checks b { font-size: .8rem; text-transform: uppercase; letter-spacing: .04em; padding-top: .15rem; }
.ok b { color: var(--ok-ink); } .warning b { color: var(--warning-ink); } .failed b { color: var(--failed-ink); }
/* What lies beyond an edge of a table shows as a shadow there, which the ground covers where nothing does. */
sub { line-height: 0; }
.scroll { overflow-x: auto; background:
  linear-gradient(to right, var(--ground) 40%, transparent) left / 2rem 100% no-repeat local,
  linear-gradient(to left, var(--ground) 40%, transparent) right / 2rem 100% no-repeat local,
  linear-gradient(to right, var(--shadow), transparent) left / .8rem 100% no-repeat scroll,
  linear-gradient(to left, var(--shadow), transparent) right / .8rem 100% no-repeat scroll; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .4rem .9rem .4rem 0; border-bottom: 1px solid var(--line); }
thead th { font-weight: 600; border-bottom: 1.5px solid var(--ink); vertical-align: bottom; }
tbody th { font-weight: 400; }
.number { text-align: right; white-space: nowrap; }
.inputs td:last-child { overflow-wrap: anywhere; min-width: 12rem; }
.quantities { width: 100%; }
.quantities tbody th { font-weight: 600; min-width: 14rem; }
.quantities tbody th span { display: block; font-weight: 400; max-width: 40rem; }
.samples { font-size: .85rem; }
.samples .soft { display: block; font-size: .75rem; }
.samples thead .number { white-space: normal; overflow-wrap: normal; }
.samples tbody th { min-width: 9rem; }
.confusion td, .confusion th { padding: .4rem .7rem; }
.confusion .hit { font-weight: 600; }
.digest { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .75rem; overflow-wrap: anywhere; }
abbr[title] { text-decoration: underline dotted; cursor: help; }
figure { margin: 1.25rem 0 2rem; break-inside: avoid; }
figcaption { margin-top: .6rem; max-width: 48rem; }
figcaption::before { counter-increment: figure; content: "Figure " counter(figure) ". "; font-weight: 600; color: var(--ink); }
.tabular { break-inside: auto; margin: 1rem 0 1.5rem; }
.tabular figcaption { margin: 0 0 .4rem; }
.tabular figcaption::before { counter-increment: table; content: "Table " counter(table) ". "; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 15rem), 1fr)); gap: .9rem; }
.panels + .panels { margin-top: .9rem; }
.pair { grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); }
.strip { grid-template-columns: repeat(auto-fit, minmax(min(45%, 10rem), 1fr)); }
.panel p { margin: 0 0 .3rem; font-size: .875rem; }
.picture { position: relative; border: 1px solid var(--line); background: #fff; }
.picture img { display: block; width: 100%; height: 100%; }
.pixels { image-rendering: pixelated; }
.scale { position: absolute; left: 3%; bottom: 3%; font-size: .75rem; line-height: 1.3; white-space: nowrap; }
.scale span { display: inline-block; margin-bottom: 3px; padding: 0 .3em; border-radius: 2px; color: #fff; background: rgba(0, 0, 0, .6); }
.scale b { display: block; height: 4px; background: #fff; outline: 1px solid #000; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: .6rem 0 0; padding: 0; list-style: none; font-size: .875rem; }
.legend i { display: inline-block; width: .85em; height: .85em; margin-right: .4em; border: 1px solid var(--soft); vertical-align: -.08em; }
.plans table { font-size: .8rem; }
.plans td { overflow-wrap: anywhere; }
.plans { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 0 2rem; }
/* Charts are drawn on white; on a dark page they lie on a white card, so that their colours stay true. */
.chart { display: block; width: 100%; max-width: 46rem; height: auto; background: #fff; padding: .5rem; border-radius: 4px; }
@media screen and (max-width: 60rem) {
  .confusion td, .confusion th { padding: .4rem .35rem; }
  thead .number { white-space: normal; }
}
/* A name and its definition above, its numbers in columns below; in other tables the first column stays in sight. */
@media screen and (max-width: 40rem) {
  .quantities, .quantities thead, .quantities tbody { display: block; }
  .quantities tr { display: flex; flex-wrap: wrap; border-bottom: 1px solid var(--line); }
  .quantities th, .quantities td { border: 0; }
  .quantities tr > :first-child { flex: 0 0 100%; padding-bottom: 0; }
  .quantities tr > :not(:first-child) { flex: 1 1 0; min-width: 0; white-space: normal; text-align: left; }
  .samples tbody th { min-width: 7rem; }
  .scroll table:not(.quantities) th:first-child { position: sticky; left: 0; max-width: 9rem; background: var(--ground); }
  .checks li { grid-template-columns: 5rem 1fr; }
}
@page { margin: 14mm; }
@media print {
  :root { color-scheme: light; --ink: #1b1e23; --soft: #5b6470; --line: #d5d9df; --ground: #fff; --warn: #fff7e8;
    --ok-ink: #0b5a8a; --warning-ink: #8a5200; --failed-ink: #a13400; --edge: #b86e00; }
  body { font-size: 10pt; padding: 0; max-width: none; }
  h2, h3 { break-after: avoid; }
  tr { break-inside: avoid; }
  .tabular figcaption { break-after: avoid; }
  .scroll { overflow: visible; background: none; }
  .panels { grid-template-columns: repeat(3, 1fr); }
  .pair { grid-template-columns: repeat(2, 1fr); }
  .strip { grid-template-columns: repeat(5, 1fr); gap: .4rem; }
}
"""
