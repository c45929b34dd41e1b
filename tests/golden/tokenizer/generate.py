#!/usr/bin/env python3
"""Writes roberta-mini-imdb.jsonl: texts and the token ids that RobertaTokenizer gives them, <s> and </s> included.

  pip install regex && python3 tests/golden/tokenizer/generate.py

The algorithm is stated here as plainly as it can be: GPT-2's own regular expression, run by the `regex` module, and
byte-pair merging by repeated search for the best pair. It shares no code and no table with models/tokenizer.cpp.
"""
import json
import random
from pathlib import Path

import regex

HERE = Path(__file__).resolve().parent
BASE = HERE.parents[2] / "base" / "roberta-mini-imdb"
PIECES = regex.compile(r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""")
SPECIAL = regex.compile(r"<s>|</s>|<pad>|<unk>|\s*<mask>")

WRITTEN = r"""
|a|Hello world|Hello, world!|the| the|  the|The movie was great.|it's|It's he'll we've I'm you're they'd don't
'S IT'S don'T|'s|''s|'''ll|' s|'t 't'tt|o'clock|rock 'n' roll|'ve'd're|can't've|' |'|''|"quoted" 'text'
1|12|123 456|3.14159|1,000,000|-5|$9.99|50%|2026-11-24|1st 2nd 3rd|A1B2C3|x²+y³|½ cup|٣٤٥|Ⅳ and ⅷ|①②③|१२३
日本語のテキスト|你好,世界!|한국어 문장입니다.|ไทยภาษา|Привет, мир!|Ελληνικά|עברית שלום|العربية|हिन्दी में|தமிழ்
emoji 😀😃|👩‍👩‍👧‍👦 family|🇩🇪🇫🇷|👍🏽 ok|❤️|e\u0301 versus é|n\u0303o|a\u0300\u0301\u0302|Z\u0351\u036b\u0343a\u0363lgo|ß ſ ﬁ ﬀ
İstanbul ı|ǅ ǆ|ª º|µ|\u2019s it\u2019s|“smart quotes”|em—dash|ellipsis…|non\u00a0breaking|zero\u200bwidth|bom\ufeffbom
thin\u2009space|ideographic\u3000space|line\u2028separator|next\u0085line|\u1680ogham|soft\u00adhyphen|\u180e mongolian
a\tb|a\t\tb|\ta|a\n|a\n\n|\n\na|a \n b|a\n \n b|  |   |\t|\n|\r\n|a\r\nb\r\n| a |  a  b   c    d|a  |a   \n
trailing    |tabs\t \t mixed|\u00a0|\u00a0\u00a0x|x\u00a0|x \u00a0 y|\x00|a\x00b|\x01\x02\x7f|\x1c\x1d x|\u00ff\u0100
!!!|...|....|!?!?|(a)(b)|[x]{y}<z>|a/b\\c|#hash @at|c++|C#|foo_bar|foo-bar|http://example.com/?q=1&r=2#frag|a@b.co
:-) ;-( :D| :)|=====|*****|~~~|^_^|--|- -|<br /><br />|&amp;|100°C|±5|×÷|€5 £6 ¥7|©®™|→←↑↓|∀x∈ℝ|√2|ℵ0
<s>|</s>|<pad>|<unk>|<mask>|a<s>b|a <s> b|a <mask> b|a  \n <mask>.|<mask><mask>|x\u3000<mask> y|<S>|< s>|<s|s>|<<s>>|<mask|<ma<mask>
antidisestablishmentarianism|supercalifragilisticexpialidocious|aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa|ababababababababab
AbCdEfGh|iPhone|McDonald's|NASA's|U.S.A.|Mr. O'Neil-Smith, Ph.D.|e.g., i.e.|24/7|9:30pm|$120|mp3|COVID-19|3D|4K
\U0001f600\U0001f601 a|\U00010400\U00010428|𝒜𝓁𝓅𝒽𝒶|𝟘𝟙𝟚|𒀀𒀁|\ud7ff|\ue000|\ufffd|\uffff|\U0010ffff|𠀀𠀁|㍿|㊿
""".strip("\n")

SENTENCES = [
    "what expression would i use to say i love you if i were an italian",
    "can you tell me how to say 'i do not speak much spanish', in spanish",
    "unflinchingly bleak and desperate ",
    "it 's slow -- very , very slow . ",
    "on the worst revenge-of-the-nerds clichés the filmmakers could dredge up ",
    "How do I know if I will get my card, or if it is lost?\n",
    "Watch as Gene sings, acts and dances his way through Paris in any number of situations.<br /><br />He's great!",
    "one\ntwo\n\nthree\n\n\nfour",
    "x" * 1000,
    "- " * 100,
]


def byte_symbols():
    kept = [b for b in range(256) if 0x21 <= b <= 0x7E or (0xA1 <= b and b != 0xAD)]
    moved = [b for b in range(256) if b not in kept]
    return {**{b: chr(b) for b in kept}, **{b: chr(256 + i) for i, b in enumerate(moved)}}


class Tokenizer:
    def __init__(self, directory):
        self.vocabulary = json.loads((directory / "vocab.json").read_text(encoding="utf-8"))
        lines = (directory / "merges.txt").read_text(encoding="utf-8").split("\n")
        self.ranks = {tuple(line.split()): rank for rank, line in enumerate(line for line in lines[1:] if line)}
        self.symbols = byte_symbols()

    def piece(self, piece):
        word = [self.symbols[b] for b in piece.encode("utf-8")]
        while len(word) > 1:
            best = min(zip(word, word[1:]), key=lambda pair: self.ranks.get(pair, len(self.ranks)))
            if best not in self.ranks:
                break
            merged, i = [], 0
            while i < len(word):
                if tuple(word[i : i + 2]) == best:
                    merged.append(word[i] + word[i + 1])
                    i += 2
                else:
                    merged.append(word[i])
                    i += 1
            word = merged
        return [self.vocabulary[symbol] for symbol in word]

    def encode(self, text):
        ids, begin = [self.vocabulary["<s>"]], 0
        for special in SPECIAL.finditer(text):
            ids += self.ordinary(text[begin : special.start()]) + [self.vocabulary[special.group().lstrip()]]
            begin = special.end()
        return ids + self.ordinary(text[begin:]) + [self.vocabulary["</s>"]]

    def ordinary(self, text):
        return [token for piece in PIECES.findall(text) for token in self.piece(piece)]


def texts():
    for line in WRITTEN.split("\n"):
        for text in line.split("|"):
            yield regex.sub(r"\\(u[0-9a-f]{4}|U[0-9a-f]{8}|x[0-9a-f]{2}|[tnr\\])",
                            lambda match: match.group().encode().decode("unicode_escape"), text)
    yield from SENTENCES
    # Any mixture of the characters that the pattern tells apart.
    alphabet = list(" \t\n'\"stredvlmSTx9.,!-") + ["é", "日", "٣", "½", "😀", "\u00a0", "\u0301", "\u2028", "\u3000", "  "]
    source = random.Random(20261124)
    for _ in range(60):
        yield "".join(source.choice(alphabet) for _ in range(source.randint(1, 40)))


def main():
    tokenizer = Tokenizer(BASE)
    with open(HERE / "roberta-mini-imdb.jsonl", "w", encoding="ascii") as out:
        for text in texts():
            out.write(json.dumps({"text": text, "ids": tokenizer.encode(text)}) + "\n")


if __name__ == "__main__":
    main()
