"""Rule labeller: which of the 14 findings a report states, denies or leaves open, and on which side. Works offline.

Three layers, all regular expressions over one sentence at a time: what is named (`_TERMS`), what is said about it
(triggers for denial and doubt, each with a reach that ends at a clause border), and where (side words in the same
phrase). Meant for chest radiograph prose in English; it reads the sentence as written and knows no anatomy.

Source: ours, after the design of NegEx (Chapman et al. 2001, J Biomed Inform 34:301) and of the CheXpert labeller
(Irvin et al. 2019): mention, then classification by triggers with a limited reach. The word lists are our own.
"""

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from cliniqure_utils.vindr import FINDINGS

PRESENT, ABSENT, UNCERTAIN = "present", "absent", "uncertain"

# The heart and the aorta are single: "right" near them never says on which side they are.
MIDLINE = frozenset({"Cardiomegaly", "Aortic enlargement"})


@dataclass(frozen=True)
class Mention:
    """One finding named in one sentence.

    Attributes:
        finding: One of `vindr.FINDINGS`.
        status: "present", "absent" or "uncertain".
        side: Image-independent patient side "left", "right", "both", or None where none is said (always None for heart
            and aorta).
        sentence: 0-based index into `split_sentences(text)`.
        words: The words that named it, lower case.
        side_shared: The side is said of a neighbour in a list, "left effusion and atelectasis", and may not be meant.
    """

    finding: str
    status: str
    side: str | None
    sentence: int
    words: str = ""
    side_shared: bool = False


# --- The pattern language ------------------------------------------------------------------------------------------
# Sentences come lower-cased with single spaces, so a blank in a pattern is a blank. "(" groups without capturing, and
# <name> stands for a row of this table.
_WORDS = {
    "opacity": "opacit(y|ies)",
    "density": "densit(y|ies)",
    "verb": "is|are|was|were|be|being|appears?|remains?|looks?|seems?|to|has|have|been",
    "how": (
        "again|still|also|now|both|overall|mildly|slightly|minimally|moderately|markedly|severely|grossly|somewhat|"
        "significantly|borderline|persistently|diffusely|likely|probably|possibly|may|might|could|more|quite|not|"
        "no longer"
    ),
    "link": "( (<verb>|<how>))*",
    "heart": (
        "heart|(cardiac|cardiomediastinal|cardio-?pericardial) (silhouette|shadow|contours?|size)|heart (size|shadow|"
        "silhouette)"
    ),
    "heart_noun": "( (size|shape|shadow|silhouette|contours?))?",
    "neighbours": (
        "( ?(,|and|/) (the )?(mediastin(um|al)|cardiomediastinal|hilar|hila|aortic|aorta|cardiac|heart|pulmonary|"
        "vascular(ity)?|"
        "vasculature|contours?|silhouettes?|size|shape|structures?|knob|lungs?( fields?)?)"
        "( (and|contours?|silhouettes?|size|shape|structures?|vascularity|vasculature|knob|hilar|hila))*)*"
    ),
    "big": "enlarged|large|big|dilated|prominent|increased|widened|globular|above normal",
    "normal": "normal|unremarkable|within (the )?(upper )?(normal )?limits( of normal)?|"
    "((at )?(the )?upper limits? of|top) normal",
    "aorta": "((thoracic|ascending|descending|intrathoracic) )*aorta|aortic (knob|knuckle|arch|contour|shadow|root)",
    "aorta_noun": "( (size|caliber|calibre|contour|diameter|width|in|of))*",
    "wide": "wide|enlarged|dilated|tortuous|ectatic|unfolded|uncoiled|aneurysmal|widened|elongated|prominent",
    "widening": (
        "enlargement|dilatation|dilation|ectasia|aneurysms?|tortuosity|unfolding|widening|elongation|prominence"
    ),
    "angle": "costo-?phrenic (angles?|sulc(us|i)|recess(es)?)|cp angles?",
    "of_side": "( (the|of|both|left|right|bilateral|lateral|posterior|anterior))*",
    "shadows": "<opacity>|<density>|shadow(s|ing)?|lesions?|markings?|patterns?|changes?|bands?|streaks?|scarring|"
    "process",
    "seen": (
        "seen|identified|present|visuali[sz]ed|appreciated|evident|demonstrated|detected|noted|found|shown|observed|"
        "visible|apparent|"
        "suspected|suggested"
    ),
    "topic": (
        "treatments?|therap(y|ies)|management|symptoms?|signs and symptoms|causes|etiologies|risk factors?|"
        "complications|prevention|red flags|warning signs|diagnostic (methods?|tests?|options|procedures?|work-?up)"
    ),
    "often": (
        "usually|often|commonly|typically|frequently|generally|mostly|mainly|sometimes|also|primarily|most|can|may|"
        "might|could|be"
    ),
    "list_adjective": (
        "stable|unchanged|persistent|mild(ly)?|moderate|small|large|left|right|bilateral|minimal|new|increased|some|"
        "patchy|an?|"
        "probable|possible|likely"
    ),
}


_NAME = re.compile(r"(?<!\(\?)(?<!\(\?P)<(\w+)>")  # <name>, but not the start of (?<=, (?<! or (?P<


def _compile(*patterns: str) -> re.Pattern:
    """One regular expression, whole words only, that matches any of the patterns."""
    expanded = []
    for pattern in patterns:
        while _NAME.search(pattern):
            pattern = _NAME.sub(lambda name: f"({_WORDS[name[1]]})", pattern)
        expanded.append(re.sub(r"\((?!\?)", "(?:", pattern))
    return re.compile("|".join(rf"(?<!\w)(?:{pattern})(?!\w)" for pattern in expanded))


# --- What is named -------------------------------------------------------------------------------------------------
# (finding, fixed status or None, patterns). Earlier rows win: a stretch of text that is taken is not read again, so
# that "nodular opacity" is a nodule and not an opacity. A group "m" narrows the stretch that is taken.
_TERMS = tuple(
    (finding, status, _compile(*patterns))
    for finding, status, *patterns in (
        # heart
        (
            "Cardiomegaly",
            None,
            "<heart><heart_noun><link> <big>(?! (aort|vess))",
            r"(enlarged|dilated|large|big|prominent|globular) (\w+ )?<heart>",
            "enlargement of (the )?<heart>",
            "cardiomegaly|megacardia|cardiac (enlargement|dilatation)|heart enlargement",
            "cardio-?thoracic (ratio|index)<link> (increased|enlarged|high|elevated|above|greater than|over|more than)",
        ),
        (
            "Cardiomegaly",
            ABSENT,
            "<heart><heart_noun><neighbours><link> (of )?<normal>",
            "normal (size of (the )?|sized )?<heart>",
            "<heart><neighbours>( (is|are))? (without( any)?|shows? no|demonstrates? no) abnormality",
            "cardio-?thoracic (ratio|index) (is )?(normal|below|less than|under)",
        ),
        # aorta
        (
            "Aortic enlargement",
            None,
            "<aorta><aorta_noun><link> ((calcified|atherosclerotic) and )?(?P<m><wide>)",
            r"(<wide>|unfolding)(?=,? (and \w+ |\w+ )?<aorta>)",
            "aortic <widening>",
            r"<widening>(?= (and (\w+ ){1,3})?of (the )?<aorta>)",
        ),
        ("Aortic enlargement", ABSENT, "<aorta><aorta_noun><link> (of )?<normal>", "normal <aorta>"),
        # pleura
        (
            "Pleural effusion",
            None,
            "(?P<m>hydro-?)pneumo-?thora(x|ces)",
            "(?<!pericardial )(pleural )?effusions?",
            "pleural (fluid|liquid|collections?)|hydro-?thora(x|ces)|ha?emo-?thora(x|ces)",
            "blunt(ed|ing)( of)?<of_side> <angle>",
            "<angle><link> (blunt(ed|ing)?|obscured|obliterated)",
        ),
        (
            "Pleural effusion",
            ABSENT,
            "<angle><link> (sharp|clear|preserved|free|normal|maintained)",
            "(sharp|clear|normal)<of_side> <angle>",
        ),
        (
            "Pleural thickening",
            None,
            r"pleural (effusions?|fluid)( ?, ?| or | and |/)+(?P<m>thickening)",
            r"pleural (\w+ )?(thickening|plaques?|scarring|scars?)",
            r"thickening of (the )?(\w+ )?pleura|thickened (\w+ )?pleura|pleura<link> thickened",
            "(apical|pleural) cap(s|ping)?",
        ),
        ("Pneumothorax", None, "(hydro-?)?(?P<m>pneumo-?thora(x|ces))|pneumothoraxes|ptx"),
        # lung, from the special to the general
        (
            "Nodule/Mass",
            None,
            "(micro)?nodul(e|es|ar|arity)( (<shadows>|mass(es)?))?",
            "mass(es|-like)?(?! (effect|index))( (<opacity>|lesions?))?",
            "coin lesions?|tumou?rs?|neoplasms?|metastas[ei]s|rounded? (<opacity>|<density>)",
        ),
        # A calcified granuloma is a calcification; one that is not stays a nodule.
        (
            "Calcification",
            None,
            "(?<=non[- ])calcif(ied|ic|ying)",
            "calcified( (left|right|bilateral|upper|mid|middle|lower|lobe|lung|pulmonary|hilar|perihilar|mediastinal|"
            "apical|basilar|basal|small|tiny|punctate))* granulomas?|calcif(ied|ic|ications?|ying)( granulomas?)?",
        ),
        ("Nodule/Mass", None, "granulomas?"),
        (
            "ILD",
            None,
            "interstitial lung diseases?|ild|interstitial (pneumonitis|pneumonia)",
            "interstitial ((lung|pulmonary) )?(<shadows>|thickening|prominence|diseases?|infiltrates?|abnormalit(y|"
            "ies)|coarsening)",
            "reticul(ar|o-?nodular|ations?)( <shadows>)?",
            "interstiti(al|um)<link> (prominent|thickened|increased)",
        ),
        (
            "Pulmonary fibrosis",
            None,
            "((pulmonary|interstitial|lung|apical) )?fibro(sis|tic)( <shadows>)?",
            "(scar(s|red|ring)?|cicatri(cial|x|zation)|honey-?comb(ing|s)?)( <shadows>)?",
        ),
        (
            "Atelectasis",
            None,
            "(micro)?atelecta(sis|tic|ses)( <shadows>)?",
            "volume loss|loss of (lung )?volume",
            "(plate-?like|discoid|linear|band-?like|subsegmental) <shadows>",
            "(?<!vertebral )(?<!vertebral body )(?<!compression )collaps(e|ed|ing)(?! of (the )?vertebra)",
        ),
        (
            "Consolidation",
            None,
            "(?<=non[- ])consolidat(ive|ed|ing)",
            "(air-? ?space )?consolidat(ion|ions|ive|ed|ing)( <shadows>)?",
            "air bronchograms?",
        ),
        ("Infiltration", None, "infiltrat(e|es|ion|ions|ive)( <shadows>)?"),
        (
            "Lung Opacity",
            None,
            "(haz(y|iness) )?(<opacity>|opacifi(cation|cations|ed))( <shadows>)?|((air-? ?space|alveolar) (diseases?|"
            "process)|haz(y|iness)|"
            "ground-? ?glass)"
            "( <shadows>)?",
            r"(increased|patchy|ill-? ?defined|vague|focal|streaky|abnormal) (\w+ )?(<density>|shadow(s|ing)?)",
        ),
        (
            "Other lesion",
            None,
            "other lesions?|((rib|clavic(le|ular)|vertebral|compression|bone|bony|humeral) )*fractures?|"
            "emphysema(tous)?",
            # "edema" alone is of the lung in these reports, unless another place is named
            "((pulmonary|interstitial|alveolar|lung|perihilar) )*(?<!soft tissue )(?<!wall )(?<!subcutaneous )"
            "(?<!peripheral )(?<!ankle )(?<!leg )(?<!laryngeal )o?edema",
            "(lung )?cavit(y|ies|ary|ation)|lung cysts?|cystic lesions?|bulla(e|s)?|bullous changes?|blebs?",
            "mediastinal shift|shift of the mediastinum|(hiatal|hiatus|diaphragmatic) hernia|enlarged pulmonary "
            "arter(y|ies)|bronchiectas[ei]s|pneumomediastinum",
            "((mediastinal|hilar) )*(lymph)?adenopath(y|ies)|enlarged ((mediastinal|hilar) )*lymph nodes?",
            "(lytic|sclerotic|bone|bony|osseous) lesions?",
        ),
    )
)

# "Lungs are clear" denies what would show as a shadow in the lung, all at once.
_CLEAR = _compile(
    "(lungs?( fields?| parenchyma)?|lung bases|(upper|mid|middle|lower) (lungs?|lobes?|zones?))( (<verb>|<how>|"
    "bilaterally))*"
    " (clear|normal(ly aerated)?)(?! of)",
    "clear lungs?( fields?)?",
)
_CLEAR_DENIES = ("Consolidation", "Infiltration", "Lung Opacity")
_NOT_THE_WHOLE = _compile("otherwise|elsewhere|remaining|remainder|rest")

# "No abnormality in the right lung" says the same of one lung.
_NO_ABNORMALITY = (
    "no( (evidence of|other|further|additional|more|new|radiographic|radiological|significant|definite|focal|obvious|"
    "visible|relevant|gross)){0,3} (abnormal(ity|ities)?( (findings?|changes?))?|findings?|pathology)( (<verb>))*"
    "( (<seen>|reported))?"
)
_PART_NORMAL = _compile(
    _NO_ABNORMALITY + " (in|on|of|within|at) ((the|both|either|left|right) )*(lungs?|(lung|pulmonary) parenchyma)",
    "lungs? (are |is )?without( any| an)?( focal)? abnormalit(y|ies)",
    "lungs? (show|shows|demonstrates?) no( focal)? abnormalit(y|ies)",
)
_REST_CLEAR = _compile(
    "lungs?( fields?)?( (<verb>|<how>|bilaterally|otherwise))+ (clear|normal)",
    "(otherwise|remaining) (clear|normal) lungs?|(remainder|rest) of (the |both )?lungs?( is| are) (clear|normal)",
    "remaining lungs?( (<verb>))+ (clear|normal)",
)

# What a normal film is called. What stands before tells whether a part is meant, or another film.
_FILM = "chest|thorax|examination|exam|study|radiographs?|films?|x-?rays?|images?"
_WHOLE_NORMAL = _compile(
    f"(normal|unremarkable|negative) ((frontal|pa|ap|portable|plain|adult) )*({_FILM})"
    "( (radiographs?|films?|x-?rays?|examination|exam|study))?(?! (wall|tube|cage|drain|port))"
    "(?! (of|in) (?!(the )?(chest|thorax|patient)))",
    f"({_FILM})( (x-?rays?|radiographs?|films?))? (is|appears|remains|looks)( (?!not|no|never)[a-z]+)? "
    f"(normal|unremarkable)|({_FILM}) (is )?without( any)? abnormality",
    _NO_ABNORMALITY + r"(?=$|[,;.:]| (but|except|other than|apart|aside|and|at this time|today|on this)(?!\w))",
    rf"{_NO_ABNORMALITY} (in|on|of|within) ((the|this|these|today's|present|current) )*(\w+ )?({_FILM})"
    "(?! (wall|tube|cage))",
)
_REST_NORMAL = _compile(
    f"(remainder|rest) of the ({_FILM}) (is|appears) (normal|unremarkable|clear)",
    f"(remaining|otherwise) (normal|unremarkable) ({_FILM})(?! (wall|tube|cage))|otherwise (normal|unremarkable)$",
    "nothing else( (is|was))?( <seen>)?|^normal(?= (except|apart|aside))",
)
_ANOTHER_SUBJECT = re.compile(
    r"\b(?:not|never|longer|prior|previous|last|outside|bon[ey]\w*|osseous|ribs?|spine|skelet\w+|hearts?|cardi\w+|"
    r"aort\w+|mediastin\w+|hil\w+|silhouettes?|contours?|lungs?|pulmonary|pleura\w*|diaphragms?|abd\w+|tissues?|vessels?|vascul\w+|lobes?|"
    r"bas[ei]s|apex|apices|zones?|airways?|trachea|left|right)\b"
)
_NO_ACUTE = _compile(
    r"(no|without) ((radiographic )?evidence of |definite |radiographic |other )*(an? )?(acute|active) (\w+ )?(\w+ )?"
    "(abnormalit(y|ies)|diseases?|process(es)?|findings?|patholog(y|ies)|illness)"
)
# Words that leave out of a statement on the whole film what the text names.
_UNNAMED_ONLY = _compile(
    "otherwise|other|further|additional|more|else|remaining|remainder|rest of|except( for)?|(apart|aside) from|"
    "with the exception of"
)

# --- What is said about it -------------------------------------------------------------------------------------------
# Words that look like a denial but deny something else.
_PSEUDO = _compile(
    r"(no|without|not) (\w+ly |\w+ )?(interval )?(change[sd]?|increased?|decreased?|progress(ion|ed)|worsening|"
    r"improve(ment|d)|"
    "difference|enlarging)( (in|of|from|to|for))?",
    "not only|no doubt|not (necessarily|surprisingly)",
)
_CANNOT = r"(cannot|can not|can't|could not) (\w+ly )?"
_AFTER_UNCERTAIN = _compile(
    _CANNOT + r"(be )?(\w+ly )?(excluded|ruled out)",
    "not (entirely |completely |definitely )?(excluded|ruled out)|difficult to exclude",
    "(is|are) (also )?(possible|suspected|questioned|probable|likely|questionable|equivocal|doubtful|a consideration)",
    "(may|might|could) (also )?be present|should be considered",
)
_AFTER_ABSENT = _compile(
    r"((is|are|was|were|has been|have been) )?(not|no longer|never) (\w+ly )?(been )?<seen>",
    r"(is|are|was|were) absent|(has|have|is|are|was|were) (\w+ly |now |since )?(resolved|cleared|disappeared)",
    "(is|are|was|were|has been|have been) (excluded|ruled out|negative|unlikely)|unlikely$",
)
_ANSWER_NO = re.compile(r"\s*:\s*(?:absent|none|no|negative)(?!\w)")  # "Pneumothorax: none"
_CANNOT_EXCLUDE = _compile(_CANNOT + "(exclude|rule out)")
_BEFORE_UNCERTAIN = _compile(
    "(may|might|could|can) (also |well )?(represent|reflect|indicate|suggest|be|include|relate)(?! (present|due to))",
    "possib(le|ly|ility of)|probab(le|ly)|suspect(ed)?|suspici(ous|on) (for|of)|concern(ing)? for|worrisome for|"
    "questionabl[ey]",
    "question of|suggest(s|ive of|ing|ed|ion of)?|likely|presum(ed|ably)|equivocal|borderline|perhaps|versus|vs\\.?",
    "raises? the possibility of|differential (diagnosis )?includes?",
)
# A cause ends the reach of what was said before, but "may be due to" doubts the cause itself.
_DOUBTED_CAUSE = re.compile(
    r"\b(?:may|might|could|can|probabl[ey]|possibl[ey]|likely|perhaps|presum(?:ed|ably)|suspected)(?: be)?(?: \w+ly)? "
    r"(?:due|secondary) to$"
)
_BEFORE_ABSENT = _compile(
    r"no|not|without|none|neither|nor|never|\w+n't|free of|clear of|negative for|absence of|lack of|lacks|devoid of|"
    r"denies",
    "resol(ved|ution of)|rather than|instead of|excludes?|rules? out any|fails? to (show|demonstrate)",
)
# Questions and history are neither stated nor denied; such a mention is left out.
_NOT_A_STATEMENT = _compile(
    "(rule out|r/o|evaluate for|evaluation (for|of)|assess(ment)? for|to exclude|look(ing)? for|history of|h/o|"
    "status post|"
    "risks? (of|for)|screening for|prior|previously (treated|drained))(?! (exam|study|film|radiograph|imaging))"
)
# Talk about a disease in general, as a handbook has it, is not about this film either. It opens a sentence ("treatment
# of effusion includes drainage"), follows the finding that opens one ("pneumothorax is caused by"), or stands just
# before a finding ("diuretics are used to treat effusions").
_GENERAL_OPENING = _compile(
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
_GENERAL_PREDICATE = _compile(
    "(is|are|can|may|might|could)( <often>)* (caused|treated|managed|diagnosed|defined|characteri[sz]ed|prevented|"
    "classified|associated with)",
    r"(is|are|can|may|might)( <often>)* (an? |the )?([\w-]+ ){0,3}(sign|condition|disease|disorder|"
    "collection|accumulation|build-?up|term|type|form|complication|cause|symptom|manifestation|consequence|presence|"
    "enlargement|collapse) "
    "(of|in|that|which|where|when|characteri[sz]ed)",
    "(is|are) (often|usually|commonly|typically|mostly|mainly|generally|frequently) (due to|related to|secondary to|"
    "seen in|found in|the result of|an? result of)|(is|are) an? (collapsed|abnormal)",
    "means|refers? to|(<often> )*(occurs?|arises?|develops?) (when|if|in (people|patients|adults)|due to|because|as a "
    "result|from)|results? (from|when)",
    "(can|may|might|could)( <often>)* (cause|lead to|present with|result (in|from)|produce|manifest|occur|develop)",
    "(commonly|often|usually|typically) (causes?|leads?|presents?|results?|occurs?|develops?)",
    "<topic>( (options?|methods?))? (include|includes|is|are|may|can|involves?|consists?)",
    "causes? (symptoms|pain|shortness|dyspn(o?ea)|chest pain|cough|breathlessness)",
)
_GENERAL_LEAD = re.compile(
    r"(?:(?:in general|generally|typically|usually),? )?(?:an? )?"
    r"(?:(?:chronic|acute|tension|untreated|lung|pulmonary) )?"
)
_GENERAL_BEFORE = re.compile(
    _compile(
        "(<topic>|causes?) (of|for|include|includes|such as|like)",
        r"to (\w+ (and|or) )?(treat|manage|prevent|diagnose|detect|relieve|drain)",
        "(used|useful|helpful|indicated|prescribed|needed|required|necessary) (for|in)",
        "(used|useful|helpful|recommended|performed|ordered|helps?) (to |in |for )?(help )?(evaluat(e|ing)|"
        "assess(ing)?|confirm(ing)?|detect(ing)?|diagnos(e|ing)|identify(ing)?)",
        "(patients|people|persons|individuals|adults|those) (with|who have)|(in|for) cases? of|if",
    ).pattern
    + r"(?: an?| any)?(?: large| small| tension| severe)? $"
)
_BEFORE_TAILS = (
    "of for in include includes as like treat manage prevent diagnose detect relieve drain with have if a an any large "
    "small tension severe evaluate evaluating assess assessing confirm confirming detecting diagnosing identify "
    "identifying"
)
_GENERAL_TAILS = tuple(f" {word} " for word in _BEFORE_TAILS.split()) + ("if ",)  # a quick look before the search
_GENERAL_ENDS = re.compile(
    r";(?= (?:no|there|this|left|right)\b)|\b(?:but|however)\b|,? and (?=(?:the|there|an?|this)\b)"
)
# What speaks of this film even there.
_HERE = re.compile(r"\bthere (?:is|are)\b|\b(?:shows?|demonstrates?|reveals?)\b")
_THE = re.compile(r"\b(?:the|this|that|these|those|his|her|patient's) (?:(?!of |for |with |in |is |are )\w+ ){0,2}$")
# A history that the film bears out is a statement: "markings consistent with her history of fibrosis".
_BORNE_OUT = _compile(r"(consistent|compatible|in keeping|in line|concordant) with (\w+('s)? ){0,3}(history of|h/o)")
# "In the left lower zone and the right upper zone" goes on; "and the right lung is clear" begins something else.
_SECOND_PLACE = (
    r"the (?:left|right)(?: \w+){0,2}? (?:zones?|lobes?|lungs?|bas(?:e|is)|apex|hilum|side|hemithorax)\b"
    r"(?! (?:is|are|was|were|has|shows?|appears?|remains?)\b)"
)
# Where the reach of a trigger ends.
_BREAK = re.compile(
    _compile(
        "but|however|although|though|except( for)?|(apart|aside) from|other than|yet|whereas|while|despite|which|"
        "secondary to|"
        "due to|because"
    ).pattern
    + rf"|[:;]|,? and (?=(?:the|there|an?|with)\b)(?!{_SECOND_PLACE})"
    r"|, (?:and )?(?=(?:the|there|with|this|these|it)\b)"
)
# After "no", a comma or "and" before a describing word starts a new statement, unless "or" closes the list later.
_ADJECTIVE = _compile("<list_adjective>").pattern
_BRIEF_ADJECTIVE = _compile("stable|unchanged|persistent|mild|moderate|small|large|minimal").pattern
_SOFT_BREAK = re.compile(rf", (?:and )?(?={_ADJECTIVE})| and (?={_BRIEF_ADJECTIVE})")
_VERB = _compile("is|are|was|were|has|have|remains?|appears?")
_JOINED = re.compile(r"[\s,]*(?:or|and/or|versus|vs\.?|/|,)[\s,]*(?:\w+\s+){0,3}")

# --- Where -----------------------------------------------------------------------------------------------------------
_SIDE = re.compile(
    r"\b(?:(?P<both>bilateral(?:ly)?|both|bi-?basilar|bi-?basal|bi-?apical(?:ly)?|either side|"
    r"(?:left|right) (?:greater|more|larger|worse) than (?:the )?(?:left|right))|(?P<left>left|lingular?)|"
    r"(?P<right>right))\b"
)
_EXPLAINS = _compile(
    "likely|probably|possibly|possible|presumably|(may|might|could) (represent|reflect|be|indicate)|representing|"
    "reflecting|"
    "suggest(s|ing|ive of)|consistent with|compatible with|in keeping with|due to|related to|from"
)
_LISTED = re.compile(r"[\s,]*(?:and/or|and|or|with|rather than|versus|vs\.?|/)?[\s,]*(?:(?!is |are )\w+\s+){0,3}")
_PLAIN_LIST = re.compile(r" ?(?:,|and|or|/|, and|, or|\() ?(?:an? )?")
_LIST_REACH = 12  # findings; a model that repeats itself writes lists of hundreds
_OPENING_PLACE = re.compile(r"(?:on|at|in|within) [^,]{0,40},")
_DENIAL_BEGINS = re.compile(r"\b(?:no|not|without|neither)\b")
_NOT_THERE = re.compile(r"\b(?:none|not)(?: \w+)? (?:on|at|in|over) the (?P<side>left|right)\b")
_BUT_ONE = re.compile(
    r"\bbut (?:there is )?(?:an? )?(?:\w+ )?(?:(?P<side>left|right)(?:-sided)? one|one (?:on|at|in) the "
    r"(?P<place>left|right))\b"
)
_ONE_NOT_THE_OTHER = re.compile(
    r"(?<!no )\b(?P<side>left|right)(?:-sided)? but (?:no|not a) (?:left|right)\b[^,;]{0,25}$"
)
_TWO_SIDES = re.compile(
    r"\b(?:left|right)(?:-?sided)? (?:and|or|nor|and/or) (?:the )?(?:left|right)\b(?! (?:\w+ )?(?:lungs? )?clear)"
)
_JOINER = re.compile(r",|\band\b|\bwith\b|\bor\b|\bplus\b|;|:")


def split_sentences(text: str) -> list[str]:
    """Sentences of a report, in order, white space tidied, empty ones left out.

    Ends at . ! ? and line breaks (never inside a number such as 1.5, nor after "Dr", "approx" or a list number).
    """
    text = re.sub(r"[ \t\r\f\v\u00a0]+", " ", str(text))
    parts = re.split(
        r"(?<!\bDr)(?<!\bvs)(?<!\bapprox)(?<!\be\.g)(?<!\bi\.e)(?<=[.!?])(?=\s|[A-Z])(?<!\b\d\.)|\n+", text
    )
    return [part.strip() for part in parts if re.search(r"\w", part)]


def find_mentions(text: str) -> list[Mention]:
    """Every finding a text names, with what is said about it.

    Args:
        text: Report prose, any case; None, NaN and "" give an empty list.

    Returns:
        Mentions in reading order. The same finding may come more than once. "The heart is normal in size" gives an
        absent Cardiomegaly, "the lungs are clear" absent Consolidation, Infiltration and Lung Opacity.

    Source: ours (see the head of this module).
    """
    if not isinstance(text, str):
        return []
    mentions = []
    for index, sentence in enumerate(split_sentences(text)):
        for finding, status, side, words, shared in _read_sentence(_tidy(sentence)):
            mentions.append(Mention(finding, status, side, index, words, shared))
    return mentions


def label_matrix(texts: Iterable[str]) -> np.ndarray:
    """Labels of many reports.

    Args:
        texts: n reports.

    Returns:
        bool array (n, 14), columns in the order of `vindr.FINDINGS`: True where a report states the finding or leaves
        it open ("may represent"); a statement outweighs a denial elsewhere in the same report.
    """
    texts = list(texts)
    labels = np.zeros((len(texts), len(FINDINGS)), dtype=bool)
    column = {finding: i for i, finding in enumerate(FINDINGS)}
    for row, text in enumerate(texts):
        for mention in find_mentions(text):
            if mention.status != ABSENT:
                labels[row, column[mention.finding]] = True
    return labels


def overall_statement(sentence: str) -> str | None:
    """Does a sentence speak of the whole film?

    Returns:
        "normal" ("normal chest radiograph", "no abnormality"), "otherwise normal" ("no other abnormality", "normal
        except for a nodule"), "no acute" ("no acute cardiopulmonary process"), or None, also where it speaks of a
        part: "no abnormality in the right lung", "normal chest wall".
    """
    sentence = _tidy(sentence)
    if _NO_ACUTE.search(sentence):
        return "no acute"
    for pattern in (_REST_NORMAL, _WHOLE_NORMAL):
        for match in pattern.finditer(sentence):
            lead = re.split(r"[,;:]|\b(?:but|and)\b", sentence[: match.start()])[-1]
            if not _ANOTHER_SUBJECT.search(lead):
                rest = pattern is _REST_NORMAL or _UNNAMED_ONLY.search(sentence)
                return "otherwise normal" if rest else "normal"
    return None


def denies_the_unnamed(text: str) -> dict[int, frozenset[str]]:
    """What the sentences of a text deny without naming it.

    "Normal chest" denies all findings. "No other abnormality" and "normal except for a nodule" deny those that the text
    names nowhere, "the lungs are otherwise clear" those of them that clear lungs deny. "No acute abnormality" denies
    none: it leaves open what is old, and no finding is always new.

    Args:
        text: Report prose; None and NaN give {}.

    Returns:
        Index into `split_sentences(text)` -> names, only for the sentences that deny some so. What such a sentence
        names is in `find_mentions`, as "the lungs are clear" is.

    Source: ours.
    """
    if not isinstance(text, str):
        return {}
    denied, named = {}, None
    for index, sentence in enumerate(split_sentences(text)):
        kind = overall_statement(sentence)
        if kind == "normal":
            denied[index] = frozenset(FINDINGS)
            continue
        tidy = _tidy(sentence)
        rest = FINDINGS if kind == "otherwise normal" else ()
        if kind is None and _NOT_THE_WHOLE.search(tidy) and _REST_CLEAR.search(tidy) and not _side_words(tidy):
            rest = _CLEAR_DENIES
        if rest:
            named = {mention.finding for mention in find_mentions(text)} if named is None else named
            denied[index] = frozenset(rest) - named
    return {index: names for index, names in denied.items() if names}


def _tidy(sentence: str) -> str:
    sentence = sentence.lower().replace("\u2019", "'")
    sentence = re.sub("[\u2010-\u2015]", "-", sentence)
    sentence = re.sub(r"\bnon(?=calcif|consolidat|nodul|fibro|cavit|emphysem|enlarged|dilated)", "non-", sentence)
    return re.sub(r"\s+", " ", sentence).strip().rstrip(".!")


@functools.lru_cache(maxsize=4096)  # reports say the same sentences again and again
def _read_sentence(sentence: str) -> tuple[tuple[str, str, str | None, str, bool], ...]:
    """(finding, status, side, words, whether the side is shared) of a tidied sentence."""
    found, taken = [], []  # found: (start, end, finding, fixed status)
    for finding, status, pattern in _TERMS:
        for match in pattern.finditer(sentence):
            start, end = match.span("m") if match.groupdict().get("m") else match.span()
            if any(start < other_end and other_start < end for other_start, other_end in taken):
                continue
            taken.append((start, end))
            found.append((start, end, finding, status))
    found.sort()
    general = _general(sentence, found)
    mentions = []  # (start, finding, status, side, words, shared)
    for position, (start, end, finding, fixed) in enumerate(found):
        status = fixed or _status(sentence, found, position)
        if status is None or position in general:
            continue
        for said, side in [(status, None)] if finding in MIDLINE else _sides(sentence, found, position, status):
            shared = side is not None and len(found) > 1 and _own_side(sentence, found, position) is None
            mentions.append((start, finding, said, side, sentence[start:end], shared))
    if not _NOT_THE_WHOLE.search(sentence):
        named = {mention[1] for mention in mentions}
        for clear in (*_CLEAR.finditer(sentence), *_PART_NORMAL.finditer(sentence)):
            near = _JOINER.split(_TWO_SIDES.sub("both", sentence[: clear.start()]))[-1] + clear[0]
            side = _side_words(near) or _opening_side(sentence)
            mentions += [
                (clear.start(), finding, ABSENT, side, clear[0], False)
                for finding in _CLEAR_DENIES
                if finding not in named
            ]
    return tuple(mention[1:] for mention in sorted(mentions, key=lambda item: item[0]))


def _sides(sentence: str, found: list, position: int, status: str) -> list[tuple[str, str | None]]:
    """(status, side) of one name; two where it serves for both sides: "a left but no right effusion"."""
    start, end = found[position][:2]
    following = found[position + 1][0] if position + 1 < len(found) else len(sentence)
    if status == ABSENT:
        first = _ONE_NOT_THE_OTHER.search(sentence, 0, start)
        if first:
            return [(PRESENT, first["side"]), (ABSENT, _side(sentence, found, position))]
        second = _BUT_ONE.search(sentence, end, following)
        if second:
            denied = (ABSENT, _side(sentence[: second.start()], found[: position + 1], position))
            return [denied, (PRESENT, second["side"] or second["place"])]
        return [(ABSENT, _side(sentence, found, position))]
    other = _NOT_THERE.search(sentence, end, following)
    if other is None:
        return [(status, _side(sentence, found, position))]
    rest = sentence[: other.start()] + "_" * len(other[0]) + sentence[other.end() :]
    return [(status, _side(rest, found, position)), (ABSENT, other["side"])]


def _general(sentence: str, found: list) -> set[int]:
    """Positions of the mentions that are talk about a disease in general."""
    if not found:
        return set()
    reach = defined = 0  # how far the general talk goes, and the words of its definition: "is the collapse of"
    opening = _GENERAL_OPENING.match(sentence)
    if opening:
        reach = _end_of(_GENERAL_ENDS, sentence, opening.end())
    elif _GENERAL_LEAD.fullmatch(sentence[: found[0][0]]):
        last = 0  # of the list that opens the sentence: "effusion and atelectasis are caused by"
        while last + 1 < len(found) and _PLAIN_LIST.fullmatch(sentence[found[last][1] : found[last + 1][0]]):
            last += 1
        predicate = _GENERAL_PREDICATE.match(sentence, found[last][1] + 1)
        if predicate:
            reach, defined = _end_of(_GENERAL_ENDS, sentence, predicate.end()), predicate.end()
    general: set[int] = set()
    for position, (start, end, finding, _) in enumerate(found):
        listed = position - 1 in general and _PLAIN_LIST.fullmatch(sentence[found[position - 1][1] : start])
        before = sentence[_clause(sentence, start, end)[0] : start]
        led = before.endswith(_GENERAL_TAILS) and _GENERAL_BEFORE.search(before)
        if not (start < reach or listed or led):
            continue
        of_this_film = _HERE.search(before) or (
            finding not in MIDLINE
            and (_own_side(sentence, found, position) or (start >= defined and _THE.search(before)))
        )
        if not of_this_film and not (start >= reach and _BEFORE_ABSENT.search(before)):
            general.add(position)
    return general


def _end_of(pattern: re.Pattern, sentence: str, start: int) -> int:
    match = pattern.search(sentence, start)
    return match.start() if match else len(sentence)


def _status(sentence: str, found: list, position: int) -> str | None:
    """present / absent / uncertain for one mention; None when it is a question or history."""
    start, end = found[position][:2]
    first, last = _clause(sentence, start, end)
    before, inside, after = sentence[first:start], sentence[start:end], sentence[end:last]

    if _NOT_A_STATEMENT.search(_BORNE_OUT.sub("_", before)):
        return None
    if before.endswith(("non-", "non ")):  # "no noncalcified nodule" says nothing of calcified ones
        return None if _BEFORE_ABSENT.search(before) else ABSENT
    if re.search(r"\b(?:not|no longer)\b", inside):
        return ABSENT

    if _ANSWER_NO.match(after):
        return ABSENT
    # A trigger behind the mention reaches back over the list it closes, not over an earlier verb.
    for pattern, status in ((_AFTER_UNCERTAIN, UNCERTAIN), (_AFTER_ABSENT, ABSENT)):
        trigger = pattern.search(after)
        doubts_a_cause = trigger and re.match(r"\s*(?:due|secondary) to\b", sentence[end + trigger.end() :])
        if trigger and not doubts_a_cause and not _VERB.search(after[: trigger.start()]):
            return status

    # Triggers behind other mentions must not be read again as triggers in front of this one.
    blanked = before
    for pattern in (_PSEUDO, _AFTER_UNCERTAIN, _AFTER_ABSENT):
        blanked = pattern.sub(lambda match: "_" * len(match[0]), blanked)
    if _CANNOT_EXCLUDE.search(blanked):
        return UNCERTAIN
    denials = list(_BEFORE_ABSENT.finditer(blanked))
    if denials and not _soft_break(sentence, first + denials[-1].end(), start, last):
        return ABSENT
    if re.search(r"\b(?:likely|probably|possibly|may|might|could|borderline)\b", inside):
        return UNCERTAIN
    doubts = list(_BEFORE_UNCERTAIN.finditer(blanked))
    if doubts and _doubt_reaches(sentence, found, position, first + doubts[-1].end()):
        return UNCERTAIN
    if _DOUBTED_CAUSE.search(sentence[:first].rstrip()) and _doubt_reaches(sentence, found, position, first):
        return UNCERTAIN
    if re.match(r"\s*(?:versus|vs\.?)\s", after) or re.match(r"\s*\?", after):
        return UNCERTAIN
    return PRESENT


def _clause(sentence: str, start: int, end: int) -> tuple[int, int]:
    """The stretch around a mention that no hard break crosses."""
    first, last = 0, len(sentence)
    for match in _BREAK.finditer(sentence):
        if match.end() <= start:
            first = match.end()
        elif match.start() >= end:
            last = match.start()
            if match[0] == ":":  # "Pneumothorax: absent" is one statement
                last = len(sentence)
            break
    return first, last


def _soft_break(sentence: str, start: int, end: int, last: int) -> bool:
    """Does a new statement begin between a denial and the mention? Not inside a list closed by "or" or "nor"."""
    for match in _SOFT_BREAK.finditer(sentence, start, end):
        if not re.search(r"\bn?or\b", sentence[match.end() : last]):
            return True
    return False


def _doubt_reaches(sentence: str, found: list, position: int, trigger_end: int) -> bool:
    """A doubt covers the first mention after it and those joined to that one by or / versus / comma."""
    covered = [item for item in found if item[0] >= trigger_end]
    for earlier, later in zip(covered, covered[1:], strict=False):
        if earlier is found[position]:
            return True
        if not _JOINED.fullmatch(sentence[earlier[1] : later[0]]):
            return False
        if later is found[position]:
            return True
    return bool(covered) and covered[0] is found[position]


def _side_words(text: str) -> str | None:
    sides = set()
    for match in _SIDE.finditer(text):
        sides.add(match.lastgroup)
    if not sides:
        return None
    return sides.pop() if len(sides) == 1 else "both"


def _side(sentence: str, found: list, position: int) -> str | None:
    """Side of a mention: its own, else that of what it explains, of its list, of its clause, of the sentence's head."""
    own = _own_side(sentence, found, position)
    if own:
        return own
    first, last = _clause(sentence, *found[position][:2])

    def gap(left: int) -> str:
        """Words between two neighbouring mentions, "#" where one of them has no side by nature."""
        if not 0 <= left < len(found) - 1 or {found[left][2], found[left + 1][2]} & MIDLINE:
            return "#"
        words = sentence[found[left][1] : found[left + 1][0]]
        # what is denied is not where the stated neighbour is: "left consolidation without effusion"
        return "#" if _DENIAL_BEGINS.search(words) else words

    # A list shares its place: "consolidation and effusion at the right base" ...
    here = position
    while here < position + _LIST_REACH and _LISTED.fullmatch(gap(here)) and not _side_words(gap(here)):
        here += 1
        if _own_side(sentence, found, here):
            return _own_side(sentence, found, here)
    # ... "left effusion and atelectasis"; and what explains a shadow is where the shadow is: "opacity at the right
    # base, likely atelectasis or infiltrate".
    here = position
    while here > position - _LIST_REACH and (_LISTED.fullmatch(gap(here - 1)) or _EXPLAINS.search(gap(here - 1))):
        here -= 1
        if _own_side(sentence, found, here):
            return _own_side(sentence, found, here)
    if sum(first <= item[0] < last for item in found) > 1:
        return None
    # A denial has the side of its own part of the clause: not "the left base is clear, no effusion".
    denials = list(_DENIAL_BEGINS.finditer(sentence, first, found[position][0]))
    if denials:
        first += len(re.match(r"(?:.*(?:,| and ))?", sentence[first : denials[-1].start()])[0])
    # "On the right, there is consolidation": the place opens the sentence.
    return _side_words(sentence[first:last]) or _opening_side(sentence)


def _opening_side(sentence: str) -> str | None:
    place = _OPENING_PLACE.match(sentence)
    return _side_words(place[0]) if place else None


def _own_side(sentence: str, found: list, position: int) -> str | None:
    """Side said inside a mention's words, else just before them, else just after."""
    start, end = found[position][:2]
    first, last = _clause(sentence, start, end)
    inside = _side_words(sentence[start:end])
    if inside:
        return inside
    # Just before: back to the previous mention or joining word.
    previous = found[position - 1][1] if position else 0
    before = sentence[max(first, previous) : start]
    # "left and right lower zone consolidation" is one place, so a joiner between two sides does not cut
    near = _JOINER.split(_TWO_SIDES.sub("both", before))[-1]
    if _side_words(near):
        return _side_words(near)
    # Just after: up to the next mention, less the phrase that leads into that one.
    following = found[position + 1][0] if position + 1 < len(found) else len(sentence)
    after = sentence[end : min(last, following)]
    if position + 1 < len(found) and following <= last:
        cuts = [match.start() for match in _JOINER.finditer(after)]
        after = after[: cuts[-1]] if cuts else after
    else:
        after = re.split(r"[;:]|,(?!\s*(?:left|right|mid|upper|lower))", after)[0]
    return _side_words(after)
