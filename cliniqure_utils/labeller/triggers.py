"""What is said about a finding: denial, doubt, talk in general, side words, and where the reach of each ends."""

import re

from cliniqure_utils.labeller.terms import compile_words

# Words that look like a denial but deny something else.
PSEUDO = compile_words(
    r"(no|without|not) (\w+ly |\w+ )?(interval )?(change[sd]?|increased?|decreased?|progress(ion|ed)|worsening|"
    r"improve(ment|d)|"
    "difference|enlarging)( (in|of|from|to|for))?",
    "not only|no doubt|not (necessarily|surprisingly)",
)
CANNOT = r"(cannot|can not|can't|could not) (\w+ly )?"
AFTER_UNCERTAIN = compile_words(
    CANNOT + r"(be )?(\w+ly )?(excluded|ruled out)",
    "not (entirely |completely |definitely )?(excluded|ruled out)|difficult to exclude",
    "(is|are) (also )?(possible|suspected|questioned|probable|likely|questionable|equivocal|doubtful|a consideration)",
    "(may|might|could) (also )?be present|should be considered",
)
AFTER_ABSENT = compile_words(
    r"((is|are|was|were|has been|have been) )?(not|no longer|never) (\w+ly )?(been )?<seen>",
    r"(is|are|was|were) absent|(has|have|is|are|was|were) (\w+ly |now |since )?(resolved|cleared|disappeared)",
    "(is|are|was|were|has been|have been) (excluded|ruled out|negative|unlikely)|unlikely$",
)
ANSWER_NO = re.compile(r"\s*:\s*(?:absent|none|no|negative)(?!\w)")  # "Pneumothorax: none"
CANNOT_EXCLUDE = compile_words(CANNOT + "(exclude|rule out)")
BEFORE_UNCERTAIN = compile_words(
    "(may|might|could|can) (also |well )?(represent|reflect|indicate|suggest|be|include|relate)(?! (present|due to))",
    "possib(le|ly|ility of)|probab(le|ly)|suspect(ed)?|suspici(ous|on) (for|of)|concern(ing)? for|worrisome for|"
    "questionabl[ey]",
    "question of|suggest(s|ive of|ing|ed|ion of)?|likely|presum(ed|ably)|equivocal|borderline|perhaps|versus|vs\\.?",
    "raises? the possibility of|differential (diagnosis )?includes?",
)
# A cause ends the reach of what was said before, but "may be due to" doubts the cause itself.
DOUBTED_CAUSE = re.compile(
    r"\b(?:may|might|could|can|probabl[ey]|possibl[ey]|likely|perhaps|presum(?:ed|ably)|suspected)(?: be)?(?: \w+ly)? "
    r"(?:due|secondary) to$"
)
BEFORE_ABSENT = compile_words(
    r"no|not|without|none|neither|nor|never|\w+n't|free of|clear of|negative for|absence of|lack of|lacks|devoid of|"
    r"denies",
    "resol(ved|ution of)|rather than|instead of|excludes?|rules? out any|fails? to (show|demonstrate)",
)
# Questions and history are neither stated nor denied; such a mention is left out.
NOT_A_STATEMENT = compile_words(
    "(rule out|r/o|evaluate for|evaluation (for|of)|assess(ment)? for|to exclude|look(ing)? for|history of|h/o|"
    "status post|"
    "risks? (of|for)|screening for|prior|previously (treated|drained))(?! (exam|study|film|radiograph|imaging))"
)
# General statements about a disease, as in a handbook, are not about this film. They open a sentence ("treatment
# of effusion includes drainage"), follow the finding that opens one ("pneumothorax is caused by"), or stand just
# before a finding ("diuretics are used to treat effusions").
GENERAL_OPENING = compile_words(
    "((in general|generally|typically|usually|common|usual|typical|main|possible|potential|underlying|associated|"
    "other|further|recommended|available|initial|primary|the|most|some|its|their),? )*<topic>( (options?|methods?|"
    r"strateg(y|ies)))?( and (\w+ )?<topic>)?( (of|for|in|include[sd]?|involves?|consists?|are|is|depends?|may|can|"
    "range|varies|vary|with)|:)",
    "(the )?(most )?((common|frequent|usual|main|leading|typical|possible) )?causes? of|cause(?=:)",
    "(the )?(clinical )?(diagnosis|etiology|prognosis|pathogenesis|pathophysiology) of [^,;]* ((is|are)( <often>)* "
    "(made|confirmed|established|based) (by|with|on|from|through|using|via)|requires?|involves?|includes?|relies|"
    "depends)",
    "((many|most|some) )?(patients|people|persons|individuals|adults|children|those) (with|who)",
    "(in|for) [^,]{3,40}, (the )?((main|usual|recommended) )?<topic>",
    r"(?!(the|this|these|there|left|right|it|findings?)(?!\w))[a-z ]{3,40} (can|may|often|commonly|usually|typically) "
    "(also )?(causes?|leads? to|results? in)",
)
GENERAL_PREDICATE = compile_words(
    "(is|are|can|may|might|could)( <often>)* (caused|treated|managed|diagnosed|defined|characteri[sz]ed|prevented|"
    "classified|associated with)",
    r"(is|are|can|may|might)( <often>)* (an? |the )?([\w-]+ ){0,3}(sign|condition|disease|disorder|"
    "collection|accumulation|build-?up|term|type|form|complication|cause|symptom|manifestation|consequence|presence|"
    "enlargement|collapse) "
    "(of|in|that|which|where|when|characteri[sz]ed)",
    "(is|are) (often|usually|commonly|typically|mostly|mainly|generally|frequently) (due to|related to|secondary to|"
    "seen in|found in|the result of|an? result of)|(is|are) an? (collapsed|abnormal)",
    r"(is|are)( <often>)* an? ([\w-]+,? ){0,4}(condition|disease|disorder|illness|emergency)s?(?! (here|seen|on))",
    "(is|are)( <often>)* (very |quite |extremely |relatively )?(rare|common|uncommon|frequent|serious|dangerous|"
    "life-threatening|fatal|treatable)(?! (here|on))",
    r"(is|are)( <often>)* (an? |the )?(most |very )?(common|rare|frequent|uncommon|serious) ([\w-]+ )?(finding|cause|"
    "abnormality|problem|complication)",
    "affects? (about|up to|people|patients|men|women|adults|many|most|\\d+)",
    "means|refers? to|(<often> )*(occurs?|arises?|develops?) (when|if|in (people|patients|adults)|due to|because|as a "
    "result|from)|results? (from|when)",
    "(can|may|might|could)( <often>)* (cause|lead to|present with|result (in|from)|produce|manifest|occur|develop)",
    "(commonly|often|usually|typically) (causes?|leads?|presents?|results?|occurs?|develops?)",
    "<topic>( (options?|methods?))? (include|includes|is|are|may|can|involves?|consists?)",
    "causes? (symptoms|pain|shortness|dyspn(o?ea)|chest pain|cough|breathlessness)",
)
# What a disease is, said after a finding of this film: "an effusion, a condition characterized by ...".
DEFINITION = compile_words(
    r"which (is|are) (an? |the )?([\w-]+ ){0,4}(condition|disease|disorder|collection|accumulation|build-?up|sac|"
    "cavity) (of|in|that|where|characteri[sz]ed|caused)",
    r"(?<=, )an? ([\w-]+ ){0,3}(condition|disease|disorder) (of|in|that|where|characteri[sz]ed|caused)",
)
# History, and talk about diseases, in sentences that may name no finding.
NOT_OF_THIS_FILM = compile_words(
    "(history|h/o) of|past medical history|risk factors?|family history",
    "(is|are) (also )?an? ([\\w-]+ ){0,4}(condition|disease|disorder|illness|syndrome)s?",
    "(can|may) be (caused|treated|prevented) by|(common|main|possible) causes",
)
GENERAL_LEAD = re.compile(
    r"(?:(?:in general|generally|typically|usually),? )?(?:an? )?"
    r"(?:(?:chronic|acute|tension|untreated|lung|pulmonary) )?"
)
GENERAL_BEFORE = re.compile(
    compile_words(
        "(<topic>|causes?) (of|for|include|includes|such as|like)",
        r"to (\w+ (and|or) )?(treat|manage|prevent|diagnose|detect|relieve|drain)",
        "(used|useful|helpful|indicated|prescribed|needed|required|necessary) (for|in)",
        "(used|useful|helpful|recommended|performed|ordered|helps?) (to |in |for )?(help )?(evaluat(e|ing)|"
        "assess(ing)?|confirm(ing)?|detect(ing)?|diagnos(e|ing)|identify(ing)?)",
        "(patients|people|persons|individuals|adults|those) (with|who have)|(in|for) cases? of|if",
    ).pattern
    + r"(?: an?| any)?(?: large| small| tension| severe)? $"
)
BEFORE_TAILS = (
    "of for in include includes as like treat manage prevent diagnose detect relieve drain with have if a an any large "
    "small tension severe evaluate evaluating assess assessing confirm confirming detecting diagnosing identify "
    "identifying"
)
GENERAL_TAILS = tuple(f" {word} " for word in BEFORE_TAILS.split()) + ("if ",)  # a cheap test before the search
GENERAL_ENDS = re.compile(
    r";(?= (?:no|there|this|left|right)\b)|\b(?:but|however)\b|,? and (?=(?:the|there|an?|this)\b)"
)
# Words that show that such a sentence speaks of this film after all.
HERE = re.compile(r"\bthere (?:is|are)\b|\b(?:shows?|demonstrates?|reveals?)\b")
THE = re.compile(r"\b(?:the|this|that|these|those|his|her|patient's) (?:(?!of |for |with |in |is |are )\w+ ){0,2}$")
# A history that the film bears out is a statement: "markings consistent with her history of fibrosis".
BORNE_OUT = compile_words(
    r"(consistent|compatible|in keeping|in line|concordant) with (\w+('s)? ){0,3}(history of|h/o)"
)
# "In the left lower zone and the right upper zone" goes on; "and the right lung is clear" begins something else.
SECOND_PLACE = (
    r"the (?:left|right)(?: \w+){0,2}? (?:zones?|lobes?|lungs?|bas(?:e|is)|apex|hilum|side|hemithorax)\b"
    r"(?! (?:is|are|was|were|has|shows?|appears?|remains?)\b)"
)
# Where the reach of a trigger ends.
BREAK = re.compile(
    compile_words(
        "but|however|although|though|except( for)?|(apart|aside) from|other than|yet|whereas|while|despite|which|"
        "secondary to|"
        "due to|because"
    ).pattern
    + rf"|[:;]|,? and (?=(?:the|there|an?|with)\b)(?!{SECOND_PLACE})"
    r"|, (?:and )?(?=(?:the|there|with|this|these|it)\b)"
)
# After "no", a comma or "and" before a describing word starts a new statement, unless "or" closes the list later.
ADJECTIVE = compile_words("<list_adjective>").pattern
BRIEF_ADJECTIVE = compile_words("stable|unchanged|persistent|mild|moderate|small|large|minimal").pattern
SOFT_BREAK = re.compile(rf", (?:and )?(?={ADJECTIVE})| and (?={BRIEF_ADJECTIVE})")
VERB = compile_words("is|are|was|were|has|have|remains?|appears?")
JOINED = re.compile(r"[\s,]*(?:or|and/or|versus|vs\.?|/|,)[\s,]*(?:\w+\s+){0,3}")

# --- Where -----------------------------------------------------------------------------------------------------------
SIDE = re.compile(
    r"\b(?:(?P<both>bilateral(?:ly)?|both|bi-?basilar|bi-?basal|bi-?apical(?:ly)?|either side|"
    r"(?:left|right) (?:greater|more|larger|worse) than (?:the )?(?:left|right))|(?P<left>left|lingular?)|"
    r"(?P<right>right))\b"
)
# Zones as the reports of the cohort name them: "the left upper and right mid zones", "both upper zones". A lobe is
# another thing.
_ZONE = r"(?:upper|mid|middle|lower)"
_SIDED_ZONE = rf"(?:(?:left|right|both|bilateral)(?: (?:and|or|&) (?:left|right))? )?{_ZONE}"
ZONES = re.compile(rf"\b{_SIDED_ZONE}(?:(?:,| and| or| &|, and) (?:the )?{_SIDED_ZONE})*[ -]?(?:lung )?zones?\b")
ZONE_PART = re.compile(r"\b(?:left|right|both|bilateral|upper|middle|mid|lower)")
ZONE_JOINER = re.compile(r", and | and | or |, ")
# A part of the lungs that is said to be clear; bases count as lower zones, a lobe as the zone of its name.
CLEAR_PART = re.compile(r"\b(?:(?P<zone>upper|mid|lower)|middle|bases)\b")
# Places that the heart and the aorta cannot have.
_LUNG_PLACE = (
    rf"(?:the )?{_SIDED_ZONE}(?: lung)?[ -]?(?:zones?|lobes?)|(?:the )?(?:left|right|both) (?:lungs?|lung base)"
)
LUNG_AFTER = re.compile(rf"(?:, ?| (?:is |are )?(?:seen )?(?:in|within|over|at) )(?P<place>{_LUNG_PLACE})(?=$|[,.;])")
LUNG_BEFORE = re.compile(
    rf"(?:(?P<place>{_LUNG_PLACE})|(?P<side>\b(?:left|right|bilateral)(?:-?sided| sided)?))"
    r" (?:(?:mild|moderate|marked|severe|enlarged) )?$"
)
PART_OF_HEART = re.compile(r"heart|cardiac|aorta\b|aortic (?:arch|knob|knuckle)|enlarged")
SIZE = re.compile(
    r"\b(?:(?P<small>small|tiny|minimal|trace|slight|minor)|(?P<large>large|huge|massive|extensive|sizeable)|"
    r"(?P<moderate>moderate(?:ly)?|medium))\b"
)
SIZE_AFTER = re.compile(rf"(?:,|(?:,? which)? (?:is|are|appears?))(?: \w+ly)? {SIZE.pattern}(?! (?!in size)\w)")
EXPLAINS = compile_words(
    "likely|probably|possibly|possible|presumably|(may|might|could) (represent|reflect|be|indicate)|representing|"
    "reflecting|"
    "suggest(s|ing|ive of)|consistent with|compatible with|in keeping with|due to|related to|from"
)
LISTED = re.compile(r"[\s,]*(?:and/or|and|or|with|rather than|versus|vs\.?|/)?[\s,]*(?:(?!is |are )\w+\s+){0,3}")
PLAIN_LIST = re.compile(r" ?(?:,|and|or|/|, and|, or|\() ?(?:an? )?")
LIST_REACH = 12  # findings; a model that repeats itself writes lists of hundreds
OPENING_PLACE = re.compile(r"(?:on|at|in|within) [^,]{0,40},")
DENIAL_BEGINS = re.compile(r"\b(?:no|not|without|neither)\b")
NOT_THERE = re.compile(r"\b(?:none|not)(?: \w+)? (?:on|at|in|over) the (?P<side>left|right)\b")
BUT_ONE = re.compile(
    r"\bbut (?:there is )?(?:an? )?(?:\w+ )?(?:(?P<side>left|right)(?:-sided)? one|one (?:on|at|in) the "
    r"(?P<place>left|right))\b"
)
ONE_NOT_THE_OTHER = re.compile(
    r"(?<!no )\b(?P<side>left|right)(?:-sided)? but (?:no|not a) (?:left|right)\b[^,;]{0,25}$"
)
TWO_SIDES = re.compile(
    r"\b(?:left|right)(?:-?sided)? (?:and|or|nor|and/or) (?:the )?(?:left|right)\b(?! (?:\w+ )?(?:lungs? )?clear)"
)
JOINER = re.compile(r",|\band\b|\bwith\b|\bor\b|\bplus\b|;|:")
