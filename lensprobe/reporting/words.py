"""What pages call each kind of result and its tables, and what they say of it in general."""

from __future__ import annotations

__all__ = ["LEADS", "NOTES", "READING", "TABLES", "TITLES"]

TITLES = {
    "attention": "Attention, head by head",
    "comparison": "Side by side",
    "explore.rescale": "One number rescaled, on one text",
    "explore.steering": "One prompt, steered",
    "generate": "What was written",
    "generations": "What was written, side by side",
    "score": "What each token cost",
    "massive.scan": "Massive activations",
    "interpolation.generate": "Written while late layers see what really came",
    "interpolation.learn": "How much of the next token each layer should see",
    "interpolation.score": "Losses when late layers see the next token",
    "interpolation.surprise": "Does seeing what really came help after a surprise?",
    "interpolation.sweep": "Seeing the next token, layer by layer",
    "interpolation.trace": "What each position is about, before and after",
    "massive.ablate": "What a massive activation is for, by taking it away",
    "massive.anatomy": "Anatomy of a massive activation",
    "massive.bos_pull": "What the number does to attention",
    "massive.checkpoints": "Massive activations over training",
    "massive.gradient": "Where the gradient pushes a massive activation",
    "massive.rescale": "One number, rescaled",
    "massive.tokens": "Which first tokens get a massive activation",
    "massive.training": "What training does to a massive activation",
    "massive.trajectory": "A massive activation through the layers",
    "mnist.beside": "A network for digits and a language model",
    "mnist.out_of_data": "Is it leaving the data that does the damage?",
    "mnist.study": "Activation additions in a network for digits",
    "mnist.training": "How the network learned",
    "sinks.brittle": "What repetition costs, before and after a repair",
    "sinks.cause": "Does the massive activation make the sink?",
    "sinks.clusters": "Fooled without a repeat",
    "sinks.dedicate": "A sink of its own",
    "sinks.detector": "What marks a first token",
    "sinks.evict": "When the first keys leave the cache",
    "sinks.neurons": "The neurons that make the sink",
    "sinks.patch": "What moves the sink",
    "sinks.repeats": "Copies taken for first tokens",
    "sinks.scan": "Attention sinks",
    "sinks.scores": "Why a head attends to the sink",
    "sinks.values": "What sits at a sink",
    "steering.calibration": "How strong a steering vector must be",
    "steering.depth": "Once, or at every block",
    "steering.persistence": "Does an addition stay?",
    "steering.positions": "Where an addition is made",
    "steering.sites": "Attention values and the residual stream",
    "steering.stability": "Does a vector settle with more pairs?",
    "steering.stacks": "In the encoder or in the decoder",
    "steering.sweep": "What a steering vector does",
    "steering.vector": "A steering vector",
    "steering.vectors": "Steering vectors, layer by layer",
}

LEADS = {
    "explore.rescale": (
        "One number is multiplied at one position of one text: what becomes of the attention paid to "
        "it, layer by layer, and of the loss?"
    ),
    "explore.steering": (
        "One vector is added while one prompt is read and continued: what would come next, with it and "
        "without, and where would the plain model's own words be chosen differently?"
    ),
    "attention": (
        "What every head of the model attends to on one text. Open a head for its tokens and weights."
    ),
    "generate": (
        "The continuation of each prompt. Point at a token for its probability and rank, where they "
        "were asked for."
    ),
    "generations": (
        "The same prompts continued under several conditions. The first token that is not the first "
        "condition's is marked."
    ),
    "score": (
        "How surprising each token was to the model. Point at one for its loss, probability and rank."
    ),
    "interpolation.generate": (
        "Late layers hold the model's guess of the next token. Here they are given the token that was "
        "really written, at every position but the newest, so that what is written next can look back "
        "at what came and not at what was expected."
    ),
    "interpolation.learn": (
        "One weight a layer, learned by gradient descent with the model fixed: how much of its own "
        "guess each layer should give up for the token that really came."
    ),
    "interpolation.score": (
        "Every token predicted from a text whose earlier positions show, in late layers, the token "
        "that really followed them and not the one that was expected; beside the plain model."
    ),
    "interpolation.surprise": (
        "If late layers fail where their guess was wrong, then showing them what really came should "
        "help most right after surprising tokens. The change in loss, by how surprising those were."
    ),
    "interpolation.sweep": (
        "The change in loss when one layer is shown the token that really came next, for every layer "
        "and every weight."
    ),
    "interpolation.trace": (
        "Every layer of one text, read by the logit lens, with and without the interpolation: its own "
        "token, the one that came, or the one that the model guessed?"
    ),
    "comparison": (
        "The same analysis of each, on one scale. What was not the same for all of them is said, "
        "because numbers that were made differently cannot be compared."
    ),
    "massive.ablate": (
        "The number is set to zero, to its mean, and undone at its neurons and weights, each beside "
        "a control, because zero alone misleads both ways: a model may miss only the bias that the "
        "number is, or not need it at all."
    ),
    "massive.anatomy": (
        "One coordinate of the residual stream, taken apart exactly: what each embedding, head, MLP "
        "and bias adds to it, and which neurons and weights inside the largest of them."
    ),
    "massive.bos_pull": (
        "A little more of one dimension behind each block's first norm: which heads then look at "
        "that position more?"
    ),
    "massive.checkpoints": "The same scan over a model's checkpoints, in the order of training.",
    "massive.gradient": (
        "Which way would a gradient step move the number, and through which heads' attention to it "
        "does that gradient come?"
    ),
    "massive.rescale": (
        "Only that number, at that position, is multiplied. What the loss, the attention and the "
        "values there do says what the number is for."
    ),
    "massive.scan": (
        "In many models a few numbers of the residual stream are thousands of times larger than "
        "the rest. They sit in fixed dimensions, at fixed positions, and hardly depend on the text."
    ),
    "massive.tokens": (
        "The number at the first position for many first tokens, with BOS in front and without: is "
        "it the position that makes it, or the token?"
    ),
    "massive.training": (
        "Training goes on while the number is watched. Each step of the optimizer is split into "
        "this step's gradient, the momentum carried over, and weight decay."
    ),
    "massive.trajectory": (
        "One coordinate from block to block: where it is born, how long it stays, where it is taken "
        "away, against the rest of the residual stream."
    ),
    "mnist.beside": (
        "The same question asked of both: what does one contrast vector cost where it has nothing to "
        "do, layer by layer?"
    ),
    "mnist.out_of_data": (
        "Vectors as long as a − b that lead as far from the data or further: if distance were the "
        "reason, they would do as much damage, and putting activations back would repair it."
    ),
    "mnist.study": (
        "What the network holds of one image of a, minus what it holds of one of b, added for every "
        "test image: does b turn into a, and what becomes of all the other digits? The note that "
        "asked first calls the log loss perplexity; here both are given."
    ),
    "mnist.training": "The log loss on test images while the network learned, step by step.",
    "sinks.brittle": (
        "Text that repeats itself is read as if it began again and again. What that costs, and whether "
        "a repair of the detector takes the cost away without one on ordinary text."
    ),
    "sinks.cause": (
        "The number at the first position is taken away in several ways, each beside a control. What "
        "is left of the sink says whether the number makes it, and the loss whether the model minds."
    ),
    "sinks.clusters": (
        "If copies of one token look like first tokens, different tokens that are alike to the early "
        "layer should too. Here such a set is searched for, and read in sequences without a repeat."
    ),
    "sinks.dedicate": (
        "Keys and values that no token computes are put in front of every text. If the massive "
        "activation is there to make a sink, a model that is given one can do without it."
    ),
    "sinks.detector": (
        "A first token has nothing to attend to but itself. One early attention layer turns that into "
        "a direction of the residual stream: which heads write it, and what else looks that way?"
    ),
    "sinks.evict": (
        "A cache with room for few keys lets the oldest go. When the first key goes with them, the "
        "heads that rest on it lose their resting place; where it was never visible, the next token "
        "has taken its part from the start."
    ),
    "sinks.neurons": (
        "The number that attracts attention at the first position is written by a few neurons of one "
        "layer. Each is silenced alone, all of them together, and as many others beside them."
    ),
    "sinks.patch": (
        "Single activations of one run, put into another: where the number at the measured position "
        "and the attention to the first key follow the patch, there they are decided."
    ),
    "sinks.repeats": (
        "A token repeated many times looks like a first token to a model that counts positions only "
        "relative to each other. Which words fool it, from how many copies on, and who gets attention?"
    ),
    "sinks.scan": (
        "In many models most heads rest their attention on the first token, whatever it is. As a "
        "rule its value vector is small, so attention that rests there changes little: it is a "
        "way of doing nothing."
    ),
    "sinks.scores": (
        "A head's score to a key is an exact sum: parts of the query times parts of the key, or one "
        "term for each dimension of what the key is made from."
    ),
    "sinks.values": (
        "Values and keys at the sink beside all others: what attention there would write, and whether "
        "queries find it by the key's length or by its direction."
    ),
    "steering.calibration": (
        "Vectors are compared fairly at equal effect: the scale at which a high percentile of the "
        "tokens' divergence from the plain model reaches a target."
    ),
    "steering.depth": (
        "The same vector added after one block, and after every block from there on. In every block "
        "it adds up, so the comparison is also made at equal total strength."
    ),
    "steering.persistence": (
        "Is a token that was edited still edited when the next one is read? A key-value cache says "
        "yes, recomputing with only the newest token edited says no."
    ),
    "steering.positions": (
        "The same vector added at the front, everywhere, from the end of the prompt on, or where "
        "the caller said."
    ),
    "steering.sites": (
        "Another text's activations, mixed into the residual stream or into the attention's values."
    ),
    "steering.stability": (
        "Vectors made from different pairs of the same data point in different directions. More "
        "pairs bring them together; how many are enough?"
    ),
    "steering.stacks": (
        "The same mixing input in the encoder or in the decoder, judged by whether the answer still "
        "makes sense and by whether it carries what was mixed in."
    ),
    "steering.sweep": (
        "Layer by layer and scale by scale: what the vector does where it should, and what it does "
        "to text that has nothing to do with it."
    ),
    "steering.vector": (
        "A direction of the residual stream, its size against the stream's, and the dimensions that "
        "make most of it."
    ),
    "steering.vectors": (
        "The same contrast read at every layer: how the direction turns and grows."
    ),
}

READING = {
    "interpolation.generate": (
        "Late-layer interpolation",
        "To predict a token, a model looks back at the ones before it, whose late layers hold what it "
        "had guessed would follow each. Here those layers are mixed with what really followed. The "
        "position that predicts is never mixed, because what follows it is not known yet.",
    ),
    "interpolation.trace": (
        "Logit lens",
        "A layer's output read as if it were the last one, through the final norm and the "
        "unembedding (nostalgebraist, 2020). Rank 1 is the token it would predict. In early layers "
        "the reading means little.",
    ),
    "massive.scan": (
        "Massive activation",
        "A single number of a token's residual stream that is far larger than its neighbours: "
        "above 100 in magnitude and at least 1,000 times the median of that layer, unless other "
        "thresholds are stated above (Sun et al., 2024). It acts like a constant bias that the "
        "model builds in one early layer, keeps through the middle ones and removes near the "
        "end.",
    ),
    "sinks.scan": (
        "Attention sink",
        "A token that gets much attention whatever it says, as a rule the first. The sink rate "
        "is the share of heads whose mean attention to it exceeds 0.3, or the ε stated above (Gu "
        "et al., 2025). It falls as texts get longer, so compare only reports of equal length.",
    ),
}

TABLES = {
    "models": "The models",
    "settings": "What was not the same",
    "findings": "Massive activations, strongest first",
    "layers": "Layer by layer",
    "kinds": "By kind of token",
    "nonfinite": "Values that are not finite",
    "trajectories": "Each massive activation, layer by layer",
    "heads": "Head by head",
    "profile": "Entropy and value norms, head by head",
}

NOTES = {
    ("attention", "heads"): (
        "means over queries, from the model's own weights · entropy in nats · value: attention to the "
        "first token · previous: to the token before the query · own: to the query itself"
    ),
    ("attention", "tokens"): (
        "value: attention that the token gets, mean over itself and all later queries, over layers and "
        "heads; the last tokens have few queries"
    ),
    ("generate", "tokens"): (
        "position: absolute · logprob in nats, rank 1 the likeliest: under the model that wrote it"
    ),
    ("generations", "texts"): (
        "step: the first generated token, from 0, that is not the first condition's; nan where all are"
    ),
    ("score", "tokens"): (
        "loss in nats · rank 1 the likeliest · kind: tokens of the prompt are read, and not counted in "
        "the mean"
    ),
    ("interpolation.generate", "tokens"): (
        "logprob, entropy in nats, rank 1 the likeliest: under the model that wrote the token · "
        "plain_…: the plain model reading the same tokens"
    ),
    ("interpolation.trace", "lens"): (
        "layer: its output · kind: whose token is looked for, the position's own, the next, the plain "
        "model's guess, or whichever comes first · rank 1 the likeliest"
    ),
    ("interpolation.trace", "tokens"): (
        "guess: of the plain model · probability, rank: of the next token there · blended: whether "
        "the position's late residuals were mixed"
    ),
    ("massive.scan", "findings"): (
        "position −1: not at one fixed position · layer: where it is strongest · first, last: "
        "the layers between which it is massive · value: signed mean over sequences at that "
        "layer · share: of the sequences that show it · ratio: magnitude over the median"
    ),
    ("massive.scan", "layers"): (
        "value: the largest magnitude of that rank in any sequence · mean: its mean over "
        "sequences · median: mean over sequences of the median magnitude · ratio: mean over "
        "median"
    ),
    ("massive.scan", "kinds"): (
        "value: the largest magnitude · mean: mean over tokens of each token's largest · count: "
        "tokens"
    ),
    ("mnist.study", "effects"): (
        "positive, negative: the pair a − b · group: test images that are not of b (others), all, or "
        "those of b (negative) · loss: nats an image · perplexity: its exponential · plain: unedited"
    ),
    ("mnist.study", "distances"): (
        "in class spreads, the root mean square distance of training activations from their class's "
        "mean · length: of what is added · distance: to the nearest training activation"
    ),
    ("mnist.out_of_data", "layers"): (
        "medians over pairs · nearest_loss: of what the network says at the nearest training "
        "activation · correlation: Spearman's, over pairs, of change with distance"
    ),
    ("sinks.scan", "heads"): (
        "value: mean attention to that key position · sink_rate: share of sequences above ε"
    ),
    ("sinks.scan", "profile"): (
        "entropy in nats · value_norm: at the first token · other_norm: mean elsewhere"
    ),
}
