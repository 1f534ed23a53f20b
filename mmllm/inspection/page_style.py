"""The style sheet of the page: light and dark, from a telephone to a wide screen."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --ground: #fbfaf8; --card: #fff; --ink: #1d2126; --soft: #667079; --line: #e3e1dc;
  --read: #eceae6; --read2: #e2e0db; --learned: #c9ecc9; --learned2: #b5e1b7; --control: #8b1f8f; --media: #24418f;
  --bar: #4a90b8; --good: #2c7a3f; --note: #9a6700; --bad: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #14161a; --card: #1c1f24; --ink: #e6e4e0; --soft: #98a1ab; --line: #31353c;
    --read: #2b2f36; --read2: #343941; --learned: #1f4d2b; --learned2: #286138; --control: #f09bf3; --media: #3f62c4;
    --bar: #4a90b8; --good: #6fcf87; --note: #e3b341; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); overflow-wrap: anywhere;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
header > p:first-child { margin: 0; color: var(--soft); font-size: .85rem; letter-spacing: .04em; }
h1 { margin: 0 0 .5rem; font-size: 2rem; line-height: 1.15; }
h2 { margin: 3rem 0 .25rem; font-size: 1.4rem; border-top: 1px solid var(--line); padding-top: 1.5rem; }
h3 { margin: 0 0 .5rem; font-size: 1rem; }
small, .counts, .summary { color: var(--soft); font-size: .875rem; font-weight: normal; }
code, pre, .tokens { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: .875rem; }
.facts { list-style: none; margin: 0 0 1rem; padding: 0; color: var(--soft); font-size: .9rem; }
nav { display: flex; flex-wrap: wrap; gap: .5rem; margin-bottom: 1rem; }
nav a { color: inherit; text-decoration: none; border: 1px solid var(--line); border-radius: 1rem;
  padding: .1rem .8rem; }
nav a:hover, nav a:focus-visible { border-color: var(--bar); }
.survey { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem; }
.survey > div, article { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: 1rem; }
.survey > div { min-width: 0; }
article { margin-top: 1rem; }
.finding { margin: .35rem 0; padding-left: 1.4rem; text-indent: -1.4rem; }
.finding .sign { display: inline-block; width: 1.4rem; text-indent: 0; font-weight: bold; }
.finding ul { margin: .25rem 0 .5rem; padding-left: 1rem; text-indent: 0; color: var(--soft); font-size: .875rem; }
.good .sign { color: var(--good); } .note .sign { color: var(--note); }
.bad .sign, p.bad { color: var(--bad); }
.tokens { line-height: 2; margin: .5rem 0; white-space: pre-wrap; }
.t { background: var(--read); padding: .2rem 0; border-radius: .2rem; }
.t:nth-of-type(even) { background: var(--read2); }
.t.learned { background: var(--learned); } .t.learned:nth-of-type(even) { background: var(--learned2); }
.t.control { color: var(--control); font-weight: 600; }
.t.media, .t.media:nth-of-type(even) { background: var(--media); color: #fff; padding: .2rem .4rem; }
.legend .t { margin-right: .75rem; padding: .2rem .5rem; }
.view { margin-top: 1rem; border-top: 1px solid var(--line); padding-top: .75rem; }
.view p { margin: 0 0 .5rem; }
.pictures { display: flex; flex-wrap: wrap; gap: .5rem; }
figure { margin: 0; max-width: 100%; }
img { display: block; max-width: 100%; height: auto; border: 1px solid var(--line); background: #fff; }
img.small { width: 8rem; image-rendering: pixelated; }
figcaption { color: var(--soft); font-size: .8rem; text-align: center; }
pre { white-space: pre-wrap; margin: .5rem 0 0; }
summary { cursor: pointer; color: var(--soft); font-size: .875rem; }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--soft); font: 13px system-ui, sans-serif; }
svg .text, .key .text { fill: var(--bar); background: var(--bar); }
svg .media, .key .media { fill: var(--media); background: var(--media); }
svg text.context { fill: var(--bad); font-weight: 600; }
svg line.context { stroke: var(--bad); stroke-width: 2; stroke-dasharray: 5 4; }
svg .axis { stroke: var(--line); stroke-width: 1.5; }
.key { margin: .25rem 0 .5rem; font-size: .85rem; }
.key span { display: inline-block; width: .8rem; height: .8rem; border-radius: .2rem; margin: 0 .3rem 0 .6rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .4rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th:first-child { text-align: left; } thead th { color: var(--soft); font-weight: normal; }
@media (max-width: 30rem) { table { font-size: .78rem; } th, td { padding: .2rem .25rem; } }
.said { margin: .25rem 0; white-space: pre-wrap; } .said b { color: var(--soft); font-weight: 600; }
"""
"""CSS; it names no address."""
