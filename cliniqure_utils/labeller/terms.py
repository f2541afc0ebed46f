"""What is named: the pattern language, the words of each finding, and statements on the whole film."""

import re

PRESENT, ABSENT, UNCERTAIN = "present", "absent", "uncertain"

# --- The pattern language ------------------------------------------------------------------------------------------
# Sentences come lower-cased with single spaces, so a blank in a pattern is a blank. "(" groups without capturing, and
# <name> stands for a row of this table.
WORDS = {
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


NAME = re.compile(r"(?<!\(\?)(?<!\(\?P)<(\w+)>")  # <name>, but not the start of (?<=, (?<! or (?P<


def compile_words(*patterns: str) -> re.Pattern:
    """One regular expression, whole words only, that matches any of the patterns."""
    expanded = []
    for pattern in patterns:
        while NAME.search(pattern):
            pattern = NAME.sub(lambda name: f"({WORDS[name[1]]})", pattern)
        expanded.append(re.sub(r"\((?!\?)", "(?:", pattern))
    return re.compile("|".join(rf"(?<!\w)(?:{pattern})(?!\w)" for pattern in expanded))


# --- What is named -------------------------------------------------------------------------------------------------
# (finding, fixed status or None, patterns). Earlier rows win: a stretch of text that is taken is not read again, so
# that "nodular opacity" is a nodule and not an opacity. A group "m" narrows the stretch that is taken.
TERMS = tuple(
    (finding, status, compile_words(*patterns))
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
            "(lung )?(?<!pleural )(?<!chest )(?<!thoracic )(?<!abdominal )cavit(y|ies|ary|ation)|"
            "lung cysts?|cystic lesions?|bulla(e|s)?|bullous changes?|blebs?",
            "mediastinal shift|shift of the mediastinum|(hiatal|hiatus|diaphragmatic) hernia|enlarged pulmonary "
            "arter(y|ies)|bronchiectas[ei]s|pneumomediastinum",
            "((mediastinal|hilar) )*(lymph)?adenopath(y|ies)|enlarged ((mediastinal|hilar) )*lymph nodes?",
            "(lytic|sclerotic|bone|bony|osseous) lesions?",
        ),
    )
)

# "Lungs are clear" denies what would show in the lungs, all at once: the findings of the lung. Not the pleura, the
# heart or the aorta; not calcification, since a clear lung may hold a calcified granuloma and the name covers vessels,
# too; not other lesions, most of which are bones. In the 1,221 of 3,955 Indiana reports that call both lungs clear,
# these two are stated 0.65 and 0.50 times as often as in all reports, the heart and the aorta 0.48 and 0.61 times, and
# the denied ones 0.04 to 0.20 times, but nodules (granulomas among them) 0.54 times.
CLEAR = compile_words(
    "(lungs?( fields?| parenchyma)?|lung bases|(upper|mid|middle|lower) (lungs?|lobes?|zones?))( (<verb>|<how>|"
    "bilaterally))*"
    " (clear|normal(ly aerated)?)(?! of)",
    "clear lungs?( fields?)?",
)
CLEAR_DENIES = (
    "Atelectasis",
    "Consolidation",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Nodule/Mass",
    "Pulmonary fibrosis",
)
NOT_THE_WHOLE = compile_words("otherwise|elsewhere|remaining|remainder|rest")

# "No abnormality in the right lung" says the same of one lung.
NO_ABNORMALITY = (
    "no( (evidence of|other|further|additional|more|new|radiographic|radiological|significant|definite|focal|obvious|"
    "visible|relevant|gross)){0,3} (abnormal(ity|ities)?( (findings?|changes?))?|findings?|pathology)( (<verb>))*"
    "( (<seen>|reported))?"
)
PART_NORMAL = compile_words(
    NO_ABNORMALITY + " (in|on|of|within|at) ((the|both|either|left|right) )*(lungs?|(lung|pulmonary) parenchyma)",
    "lungs? (are |is )?without( any| an)?( focal)? abnormalit(y|ies)",
    "lungs? (show|shows|demonstrates?) no( focal)? abnormalit(y|ies)",
)
REST_CLEAR = compile_words(
    "lungs?( fields?)?( (<verb>|<how>|bilaterally|otherwise))+ (clear|normal)",
    "(otherwise|remaining) (clear|normal) lungs?|(remainder|rest) of (the |both )?lungs?( is| are) (clear|normal)",
    "remaining lungs?( (<verb>))+ (clear|normal)",
)

# What a normal film is called. What stands before tells whether a part is meant, or another film.
FILM = "chest|thorax|examination|exam|study|radiographs?|films?|x-?rays?|images?"
WHOLE_NORMAL = compile_words(
    f"(normal|unremarkable|negative) ((frontal|pa|ap|portable|plain|adult) )*({FILM})"
    "( (radiographs?|films?|x-?rays?|examination|exam|study))?(?! (wall|tube|cage|drain|port))"
    "(?! (of|in) (?!(the )?(chest|thorax|patient)))",
    f"({FILM})( (x-?rays?|radiographs?|films?))? (is|appears|remains|looks)( (?!not|no|never)[a-z]+)? "
    f"(normal|unremarkable)|({FILM}) (is )?without( any)? abnormality",
    NO_ABNORMALITY + r"(?=$|[,;.:]| (but|except|other than|apart|aside|and|at this time|today|on this)(?!\w))",
    rf"{NO_ABNORMALITY} (in|on|of|within) ((the|this|these|today's|present|current) )*(\w+ )?({FILM})"
    "(?! (wall|tube|cage))",
)
REST_NORMAL = compile_words(
    f"(remainder|rest) of the ({FILM}) (is|appears) (normal|unremarkable|clear)",
    f"(remaining|otherwise) (normal|unremarkable) ({FILM})(?! (wall|tube|cage))|otherwise (normal|unremarkable)$",
    "nothing else( (is|was))?( <seen>)?|^normal(?= (except|apart|aside))",
)
ANOTHER_SUBJECT = re.compile(
    r"\b(?:not|never|longer|prior|previous|last|outside|bon[ey]\w*|osseous|ribs?|spine|skelet\w+|hearts?|cardi\w+|"
    r"aort\w+|mediastin\w+|hil\w+|silhouettes?|contours?|lungs?|pulmonary|pleura\w*|diaphragms?|abd\w+|tissues?|vessels?|vascul\w+|lobes?|"
    r"bas[ei]s|apex|apices|zones?|airways?|trachea|left|right)\b"
)
NO_ACUTE = compile_words(
    r"(no|without) ((radiographic )?evidence of |definite |radiographic |other )*(an? )?(acute|active) (\w+ )?(\w+ )?"
    "(abnormalit(y|ies)|diseases?|process(es)?|findings?|patholog(y|ies)|illness)"
)
# Words that leave out of a statement on the whole film what the text names.
UNNAMED_ONLY = compile_words(
    "otherwise|other|further|additional|more|else|remaining|remainder|rest of|except( for)?|(apart|aside) from|"
    "with the exception of"
)
