"""How answers to multiple-choice questions are worded, as regular expressions, in several languages."""

# ruff: noqa: RUF001 (the characters of answers, as models write them)
from __future__ import annotations

import re

CLOSERS = r"[\s*_`\"'”’»)\]}$.]*"
LETTER = re.compile(
    r"[\s*_`\"'“‘«\[({$:：=~>\-]*(?:\\(?:text|textbf|textit|mathrm|mathbf|mathit|boxed)\s*\{[\s*_(\[]*)*"
    r"(?:(?i:option|choice|answer|letter|opci[oó]n|choix|选项)\s*[:：]?\s*)?[*_(\[{$\"'“]*"
    r"(?P<letter>[A-Za-z])(?![A-Za-z0-9'’]|-[A-Za-z])"
)
ANOTHER = re.compile(
    CLOSERS + r"(?:(?P<word>\b(?:and|or|und|oder|y|o|et|ou|e)\b|和|或|&|\+)|(?P<mark>[,/;、，|]|[-–—=~<>≈≠→]+))\s*"
    r"(?i:and\s+|or\s+|maybe\s+|possibly\s+|perhaps\s+|option\s+)?[*_(\[{$\"]*(?:\\text\{\s*)?(?P<letter>[A-Z])(?![A-Za-z0-9'’])(?P<rest>.?.?)",
    re.DOTALL,
)
# "C D" at the end of a line.
ANOTHER_AT_THE_END = re.compile(r"[ \t*_)\]}.]{1,6}\(?(?P<letter>[A-Z])[\s.,;:!)\]}*_]*(?:\n|$)")
# "C-D", "(A) to (D)"
RANGE = re.compile(
    r"[\s*_`\"'(\[{$]*(?P<first>[A-Z])[)\]}*_ ]*"
    r"(?:-|–|—|…|\.{2,3}|\b(?:to|through)\b)[(\[{*_ ]*(?P<last>[A-Z])(?![A-Za-z0-9'’-])"
)
SEVERAL_OF = re.compile(r"[\s*_:]*(?i:any|all|some|none|one|two|three|most|each|every|either|neither|both|between)\b")
DENIED = re.compile(
    CLOSERS + r"(?i:(?:is|was|seems|looks|would be|must be|can be)\s+(?:clearly\s+|definitely\s+|also\s+)?"
    r"(?:wrong|incorrect|not|false|ruled|out|impossible|invalid|eliminated)|isn't|wasn't|cannot|can't)\b"
)
DENIAL_BEFORE = re.compile(
    r"(?i:\bnot|n't|\bnor|\bneither|\b(?:any|every|no)thing\s+but|\ball\s+but|\bexcept|\bexcept\s+for|\bwithout|\bthan|\binstead\s+of|\bunlike"
    r"|\bexclud\w+|\beliminat\w+|\breject\w*|\brul\w+\s+out|\bignor\w+)\s{1,3}[(\[*_\"]{0,4}$"
)
# A word before a letter makes it part of a name ("vitamin C", "25 C", "plan B"), unless it is one of these.
WORD_BEFORE = re.compile(r"(?P<word>[\w°%]+)(?:['’]\w{1,2})?[ \t]{1,3}$")
LEADS = frozenset(
    word
    for line in (
        "is was be are am it its i me we well a the answer answers option options choice choices letter statement",
        "select selects choose chose pick picks say says think guess believe conclude get gives makes means matches",
        "so thus hence therefore then and or but with for as only just that which to on because since if when case",
        "also now ok okay yes no clearly probably definitely likely still finally final correct right best remains",
        "leaves leaving left has have let points suggests implies indicates favors supports prefer marked mark circle",
        "obviously certainly surely maybe perhaps actually indeed really simply namely sure vote key response",
        "es la el est c le lettre ist der è la lettera é a letra это är er adalah to opción opcion opção opzione letra",
        "respuesta resposta risposta réponse reponse antwort buchstabe lösung ответ вариант буква jawaban pilihan svar",
    )
    for word in line.split()
)
NEGATION = re.compile(r"[\s*_:]*(?i:not|n't|never|neither|no)\b")
ARTICLE_USE = re.compile(r"[ ]+(?!(?i:because|since|as|is|was|and|or|for|due|which|with|based|by|in|–|—)\b)[a-z]")
ANNOUNCEMENT = re.compile(
    r"(?P<final>(?i:\bfinal)\s+)?(?:"
    r"\b(?i:answer|choice|option|solution|response)s?\b[*_\"')\]]{0,4}"
    r"(?:\s{0,3}[:：=]|\s{1,3}(?i:is|was|would\s+be|should\s+be|must\s+be|to\s+choose\s+is)\b\s{0,3}:?"
    r"|[^.\n:：?!]{0,60}?\s(?i:is)\b\s{0,3}:?)"
    r"|^[ \t]{0,8}####(?!#)|<answer>"
    r"|(?:正确)?(?:答案|选项)[^。\n:：A-Z]{0,10}?(?:是|为|：|:|选)|(?:故|应|应该|因此|所以)?选(?:择|项)?[:：]?(?=\s{0,3}[（(]?[A-Z])"
    r"|(?:答え|正解|解答)[^。\nA-Z]{0,6}?(?:は|:|：)|(?:정답|답)[^.\nA-Z]{0,6}?(?:은|는|:|：)"
    r"|\b(?i:respuesta|resposta|risposta|réponse|reponse|antwort|lösung|ответ|вариант|odpowiedź|odpověď|cevap|yanıt|jawaban"
    r"|svar|antwoord|vastaus|απάντηση|răspuns\w*|válasz|відповідь)\b(?:[^.\n:：A-Z]{0,30}?)"
    r"(?:[:：=—–-]|\b(?:est|es|é|è|ist|is|adalah|to|jest|je|är|er|on|este|είναι|это)\b)"
    r"|(?i:đáp\s+án)[^.\n:：A-Z]{0,20}?(?:là|:|：)|(?:الإجابة|الجواب)[^.\n:：A-Z]{0,20}?(?:هي|هو|:|：)|(?:उत्तर)[^.\n:：A-Z]{0,10}?(?:है|:|：)"
    r")",
    re.MULTILINE,
)
CHOSEN = re.compile(
    r"\b(?i:choose|chose|pick|picked|select|selected|settled?\s+on|go(?:ing)?\s+with|went\s+with|opt\s+for|choisis|elijo|wähle"
    r"|выбираю|escolho)\b(?=[^A-Za-z]|\s)"
)
CONFIRMED = re.compile(
    r"(?<![A-Za-z0-9'’])[*_(\[\"]{0,4}(?P<letter>[A-Z])[*_)\]\".]{0,4}\s+(?i:is|must\s+be|would\s+be)\s+"
    r"(?i:(?:the|my|clearly|therefore|thus|indeed|definitely|then)\s+){0,3}(?i:correct|right|best|answer|true)\b"
)
TAKEN_BACK = re.compile(
    r"\b(?i:wrong|incorrect|actually|wait|instead|correction|mistake|mistaken|no|sorry|however|but|reconsider|rather|revis\w+"
    r"|reflection|not|changed?)\b"
)
LONE = re.compile(
    r"(?<![A-Za-z0-9'’\\_^°+#])(?<![A-Za-z0-9][-./])(?P<open>[(\[*_\"]{0,4})(?P<letter>[A-Z])"
    r"(?![A-Za-z0-9'’_^+#]|[-./][A-Za-z0-9]|\.\s[a-z]|:[\\/])(?P<close>[)\]*_\".,:;!]{0,4})"
)
BETWEEN_LONE = re.compile(r"[^A-Za-z]*(?i:and|or|to|through|vs|versus|maybe|perhaps|possibly)?[^A-Za-z]*")
WHOLE = re.compile(r"[\s*_`\"'(\[{$]*(?P<letter>[A-Za-z])[\s*_`\"')\]}$.,:;!]*")
# "C: text", "(C) text", "C, D"
LABELLED = re.compile(r"[\s*_(\[{$]*[A-Z](?:\s*[).:\]–—,/&]|\s+-|\s+(?:and|or)\b)")
ENDS = re.compile(r"[\s*_`\"'”’)\]}$.,;:!]*(?:\n|$|</)|[)*\]}]")
MACRO = re.compile(r"\\(?:text\w*|math\w+|mbox|operatorname)\s*\{([^{}]*)\}")
MARKUP = re.compile(r"[*_`$\"'“”]|\\[(){}\[\],;!%$ ]|[{}]")
# Between the texts of two options, in lower case.
SEPARATOR = re.compile(r"\s*(?:[,/;|&+=]|\b(?:and|or|und|oder|et|ou|y|o|e)\b)\s*(?:(?:and|or|the|maybe|also)\s+)*")
MAX_GAP = 20
