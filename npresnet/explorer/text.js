// All text of the page, in one place, for translation. t("a.key", {n: 3}) puts numbers into {n}.

export function t(key, values = {}) {
  const text = TEXT[key];
  if (text === undefined) throw new Error(`no text for ${key}`);
  return text.replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
}

// Elements say which text is theirs: data-text="key", and data-label="key" for aria-label.
export function fillText(root) {
  for (const node of root.querySelectorAll("[data-text]")) node.textContent = t(node.dataset.text);
  for (const node of root.querySelectorAll("[data-label]")) {
    node.setAttribute("aria-label", t(node.dataset.label));
  }
}

const TEXT = {
  "page.title": "npresnet: the explorer",
  "page.lead": "A real network of fifty layers runs on this page. Change something, and see its "
    + "answer move; ask any number why it is what it is.",
  "page.open": "Open a photograph, or .safetensors",
  "page.tour": "Guided tour",
  "page.undo": "Undo",
  "page.reset": "Undo all",
  "page.photo": "What the network sees",
  "page.answer": "What it says",
  "page.experiments": "Experiments",
  "page.map": "The network",
  "page.layer": "One layer",
  "page.why": "Why this number?",
  "page.agreement": "Is it right?",
  "page.progress": "Progress",
  "page.weights": "Weights:",

  "status.loading": "Unpacking the network …",
  "status.running": "Computing …",
  "status.progress": "Computing: {done} of {of} layers",
  "status.done": "{label}. Computed in {ms} ms.",
  "status.notFinite": "Not a number, or infinite, since {path}.",
  "status.failed": "{name}: {reason}",

  "photo.unreadable": "this can't be read as a picture; JPEG, PNG, WebP and GIF can",
  "photo.given": "a photograph",
  "photo.label": "{name}, {size}×{size} pixels, as the network gets it. Arrow keys move, Enter "
    + "uses the tool.",
  "photo.hint": "Drop another photograph on the page. Click a pixel to see its numbers.",
  "photo.sees": "A pixel of {path} sees {size}×{size} pixels of the photograph.",
  "photo.seesBeyond": "A pixel of {path} sees {size}×{size} pixels. The frame reaches up to "
    + "{beyond} pixels beyond the photograph: there it sees padding.",
  "photo.seesAll": "{path} sees the whole photograph.",
  "photo.tool": "Tool",
  "photo.tool.look": "look",
  "photo.tool.cover": "cover: move over the photograph, click to keep",
  "photo.tool.paint": "paint",
  "photo.size": "Size",
  "photo.colour": "Colour",

  "answer.class": "class {index}",
  "answer.hint": "Choose a class to see where it comes from: its class activation map.",
  "answer.map": "Orange speaks for “{label}”, blue against it. The mean of the map is its logit, "
    + "{mean}.",
  "answer.knows": "This network knows {count} classes and nothing else: {names}. Whatever it sees "
    + "becomes one of them.",
  "answer.knowsMany": "This network knows {count} classes. Whatever it sees becomes one of them.",
  "answer.row": "{label}: {share}.",
  "answer.showMap": "Show where it comes from",
  "answer.before": "before: {share}",
  "answer.why": "Why?",
  "answer.whyLabel": "Why {label}?",

  "experiments.turn": "Turn the photograph",
  "experiments.degrees": "{degrees}°",
  "experiments.mirror": "Mirror it",
  "experiments.normalisation": "Pixels become",
  "experiments.normalisation.trained": "as trained: (pixel / 255 − mean) / std",
  "experiments.normalisation.none": "pixel / 255 only",
  "experiments.normalisation.imagenet": "with ImageNet's mean and std",
  "experiments.normalisation.bytes": "nothing: 0 … 255 as they are",
  "experiments.normalisation.bgr": "as trained, but blue and red exchanged",
  "experiments.size": "Resize it to",
  "experiments.pixels": "{size}×{size} pixels",
  "experiments.rawProjection": "Projections take the raw input",
  "experiments.normedIdentity": "Identity shortcuts take the normalised input",
  "experiments.off": "{what} is off ✕",
  "experiments.switchOn": "Switch {what} on again",
  "experiments.hint": "Blocks and channels are switched off beside their pictures. Undo takes "
    + "back one step.",

  "map.label": "Layers in forward order. Arrow keys move from layer to layer.",
  "map.search": "Find a layer",
  "map.notFound": "no layer has “{text}” in its path",
  "map.hint": "One row per block: its branch above, its shortcut below, and their sum at the right."
    + " Small pictures show all channels together, each on its own scale; the stronger the "
    + "orange, the larger.",
  "map.identity": "raw input",
  "map.projection": "normalised input",
  "map.stage": "stage",
  "map.node.conv": "{path}: convolution, {c} channels of {h}×{w}",
  "map.node.norm": "{path}: batch norm and ReLU, {c} channels of {h}×{w}",
  "map.node.maxPool": "{path}: max pool, {c} channels of {h}×{w}",
  "map.node.avgPool": "{path}: average pool, {c} channels of {h}×{w}",
  "map.node.block": "{path}: sum of branch and shortcut, {c} channels of {h}×{w}",
  "map.node.stage": "{path}: the stage's output, {c} channels of {h}×{w}",
  "map.node.globalPool": "{path}: mean of each of {c} channels",
  "map.node.classifier": "{path}: {c} logits",

  "layer.kind.conv": "A convolution with a kernel of {kernel}×{kernel}, stride {stride}, padding "
    + "{padding}: {c} channels in, {k} out.",
  "layer.kind.norm": "Batch norm, then ReLU: each of {c} channels is scaled and shifted, and what "
    + "is negative becomes 0.",
  "layer.kind.maxPool": "The largest of {kernel}×{kernel} pixels, stride {stride}. The border "
    + "counts as −∞.",
  "layer.kind.avgPool": "The mean of 2×2 pixels, stride 2.",
  "layer.kind.block": "The sum of a block: what its branch adds to its shortcut.",
  "layer.kind.stage": "What the stage hands on: the sum of its last block.",
  "layer.kind.globalPool": "The mean of each channel over its {h}×{w} pixels.",
  "layer.kind.classifier": "The classifier: {k} weighted sums of {c} numbers. Its outputs are "
    + "called logits.",
  "layer.formula.conv": "y[k, p, q] = Σ x[c, {stride}·p + i − {padding}, {stride}·q + j − "
    + "{padding}] · w[k, c, i, j]   over c = 0…{lastC}, i, j = 0…{lastKernel}",
  "layer.formula.norm": "y[c, p, q] = max(0, x[c, p, q] · scale[c] + shift[c]),   c = 0…{lastC}",
  "layer.formula.maxPool": "y[c, p, q] = max x[c, {stride}·p + i − {padding}, {stride}·q + j − "
    + "{padding}]   over i, j = 0…{lastKernel}",
  "layer.formula.avgPool": "y[c, p, q] = mean x[c, 2·p + i, 2·q + j]   over i, j = 0, 1",
  "layer.formula.block": "y[k, p, q] = branch[k, p, q] + shortcut[k, p, q]",
  "layer.formula.blockOff": "y[k, p, q] = shortcut[k, p, q]   (the branch is switched off)",
  "layer.formula.stage": "y = the last block's sum",
  "layer.formula.globalPool": "y[c] = Σ x[c, p, q] / {pixels}",
  "layer.formula.classifier": "y[k] = Σ x[c] · w[k, c] + b[k]   over c = 0…{lastC}",
  "layer.fact.input": "reads",
  "layer.fact.shape": "gives",
  "layer.fact.parameters": "parameters",
  "layer.fact.macs": "multiply-adds",
  "layer.fact.field": "receptive field",
  "layer.fact.range": "values",
  "layer.fact.delta": "Δ to Python",
  "layer.fact.zeros": "zeros",
  "layer.fieldSize": "{size}×{size}, neighbours {step} apart",
  "layer.fieldAll": "everything",
  "layer.rangeOf": "{low} … {high}",
  "layer.size": "({h} + 2·{padding} − {kernel}) / {stride} + 1 = {exact} stops",
  "layer.sizeLeft": "({h} + 2·{padding} − {kernel}) / {stride} + 1 = {exact}: {p} stops, and "
    + "{leftover} left over at the end, which no stop reaches",
  "layer.views": "What is shown",
  "layer.view.norm.output": "after ReLU",
  "layer.view.norm.before": "before ReLU",
  "layer.view.norm.input": "before the norm",
  "layer.view.block.output": "sum",
  "layer.view.block.branch": "branch",
  "layer.view.block.shortcut": "shortcut",
  "layer.bar": "Colours from −{limit} (blue) over 0 to {limit} (orange), the same for all channels",
  "layer.channels": "Channels",
  "layer.channel": "channel {channel}",
  "layer.page": "Channels {start} to {end} of {channels}",
  "layer.previous": "Previous",
  "layer.next": "Next",
  "layer.blockOff": "Switch this block off",
  "layer.blockOn": "Switch this block on",
  "layer.channelOff": "Set channel {channel} to zero",
  "layer.channelOn": "Give channel {channel} back",
  "layer.largeLabel": "{path}, channel {channel}, {h}×{w} pixels. Arrow keys move, Enter asks why.",
  "layer.value": "channel {channel}, row {row}, column {column}: {value}",
  "layer.valueHint": "Channel {channel}. Click a pixel to ask why.",

  "why.trail": "The way here",
  "why.empty": "No number chosen yet",
  "why.hint": "Click a pixel of a layer's map, or “Why?” beside an answer. Then click any number "
    + "that took part, and go on down to the pixels.",
  "why.title": "{path}, {name}: {value}",
  "why.place": "channel {channel}, row {row}, column {column}",
  "why.step": "{path} [{channel}, {row}, {column}]",
  "why.cell": "{path}, channel {channel}, row {row}, column {column}: {value}. Ask why.",
  "why.padding": "padding: 0",
  "why.off": "An experiment has set this channel to zero.",
  "why.band": "{band} {byte}",
  "why.band.0": "red",
  "why.band.1": "green",
  "why.band.2": "blue",
  "why.pixels": "({byte} / 255 − {mean}) / {std} = {value}",
  "why.conv": "Each channel's patch of {kernel}×{kernel} times its kernel, summed over {channels} "
    + "channels:",
  "why.conv1": "The same pixel of {channels} channels, each times its weight:",
  "why.classifier": "The mean of each of {channels} channels, times its weight for this class:",
  "why.strongest": "Follow the strongest: {step}",
  "why.softmax": "The logit {logit} becomes a share: e to its power, divided by the sum of that "
    + "over all classes, is {share}. The logit itself is a sum:",
  "why.bias": "bias",
  "why.norm": "One number of the layer before, scaled, shifted, and cut off below 0:",
  "why.normSum": " · {scale} {sign} {shift} = {before}",
  "why.reluCuts": "It is negative, so ReLU makes it 0.",
  "why.reluPasses": "It isn't negative, so ReLU lets it pass: {value}.",
  "why.maxPool": "The largest number of the window (framed). All others are forgotten.",
  "why.avgPool": "The mean of {count} numbers is {value}.",
  "why.globalPool": "{count} numbers add up to {total}; divided by {count}: {value}.",
  "why.block": "What the branch found, and what the shortcut kept:",
  "why.blockOff": "The block is switched off: only its shortcut is left.",
  "why.branch": "branch: {path}",
  "why.shortcut": "shortcut: {path}",
  "why.stage": "A stage hands on what its last block gave:",
  "why.rest": "the other {count}",
  "why.showAll": "Show all",
  "why.total": "sum",
  "why.check": "The map shows {value}; summed here in double precision, it is {delta} off.",

  "agreement.layer": "layer",
  "agreement.all": "All layers",
  "agreement.largest": "Python computed the same photograph when it wrote this page. The largest "
    + "difference of {layers} layers, as a share of the layer's largest value, is {delta}, in "
    + "{path} ({numbers} numbers were compared).",
  "agreement.altered": "Something is changed: undo it to compare with Python.",
  "agreement.unknown": "Python computed the photograph and the weights that came with this page; "
    + "it has not seen what you opened.",

  "weights.missing": "the file has no tensor {name}",
  "weights.shape": "{name} has the shape {found}, expected {expected}",
  "weights.unused": "the file has a tensor {name}, which belongs to no layer",
  "weights.otherNetwork": "not a BatchNorm ResNetV2: it has no {names}",
  "weights.entry": "damaged header: the entry of {name} makes no sense",
  "weights.dtype": "{name} has numbers of type {dtype}, which can't be read here",
  "weights.bytes": "damaged header: {name} has {bytes} bytes for {count} numbers",
  "weights.short": "the file is cut short: {name} lies behind its end",
  "weights.overlap": "damaged header: tensors overlap, or leave a gap",
  "weights.long": "the file is longer than its tensors",
  "weights.tiny": "not a safetensors file: it is shorter than 8 bytes",
  "weights.header": "not a safetensors file, or cut short: its header is longer than the file",
  "weights.json": "damaged header: it isn't JSON",
  "weights.list": "damaged header: it lists no tensors",
  "ops.channels": "a kernel for {c} channels meets {channels}",
  "ops.tooSmall": "a kernel of {r}×{s} doesn't fit into {h}×{w} pixels",

  "tour.heading": "{step} of {of}: {title}",
  "tour.reveal": "Let the network answer",
  "tour.right": "Right.",
  "tour.wrong": "Not quite: {option}.",
  "tour.back": "Back",
  "tour.next": "Next",
  "tour.close": "End the tour",
  "tour.chapter": "More about this in chapter {chapter} of the course (tutorials/ in the "
    + "repository).",

  "tour.input.title": "What goes in",
  "tour.input.text": "The photograph is resized, cut to a square, and turned into numbers. Click "
    + "into it to see them.",
  "tour.input.question": "How many numbers does the network get?",
  "tour.input.0": "{pixels}, one per pixel",
  "tour.input.1": "{numbers}, three per pixel",
  "tour.input.2": "as many as the file has bytes",
  "tour.input.reveal": "{size}×{size} pixels with a red, a green and a blue number each: "
    + "{numbers}.",
  "tour.stops.title": "Half a stop",
  "tour.stops.text": "The first kernel is {kernel}×{kernel} and moves two pixels at a time over "
    + "the photograph and its padding.",
  "tour.stops.question": "How often does it stop in a row of {size} pixels, with {padding} of "
    + "padding at both ends?",
  "tour.stops.0": "{more} times",
  "tour.stops.1": "{stops} times",
  "tour.stops.2": "{stops} and a half",
  "tour.stops.reveal": "({size} + 2·{padding} − {kernel}) / 2 + 1 is {exact}. Half a stop doesn't "
    + "fit: {stops}, and a column of padding is left over. It is drawn below the formula.",
  "tour.products.title": "One number",
  "tour.products.text": "A pixel of the first layer's output is a sum of products: pixels times "
    + "weights.",
  "tour.products.question": "How many products?",
  "tour.products.0": "{kernel}",
  "tour.products.1": "{area}",
  "tour.products.2": "{count}",
  "tour.products.reveal": "{channels} channels times {kernel}×{kernel} is {count}. All of them "
    + "stand under “Why this number?”.",
  "tour.relu.title": "What ReLU cuts off",
  "tour.relu.text": "The first norm of the first block scales each channel; then ReLU makes every "
    + "negative number 0.",
  "tour.relu.question": "How many of its outputs are 0 for this photograph?",
  "tour.relu.0": "less than a quarter",
  "tour.relu.1": "between a quarter and three quarters",
  "tour.relu.2": "more than three quarters",
  "tour.relu.reveal": "{share} of them. The view now shows what they were before: all that is "
    + "blue is lost.",
  "tour.field.title": "How far one pixel sees",
  "tour.field.text": "This 3×3 kernel sits in the last stage. It sees nine pixels of the layer "
    + "before, each of which saw more.",
  "tour.field.question": "How much of the photograph does one of its outputs depend on?",
  "tour.field.0": "3×3 pixels",
  "tour.field.1": "a part of it",
  "tour.field.2": "all of it, and padding around it",
  "tour.field.reveal": "Its receptive field is {size}×{size}, the photograph has "
    + "{picture}×{picture} pixels. The frame shows it.",
  "tour.spare.title": "A block too many?",
  "tour.spare.text": "This block is about to be switched off: its shortcut alone is handed on.",
  "tour.spare.question": "What will the network say?",
  "tour.spare.0": "the same, about as sure",
  "tour.spare.1": "the same, less sure",
  "tour.spare.2": "something else",
  "tour.spare.reveal": "“{label}” went from {before} to {after}; the answer is “{now}”. A block "
    + "only adds to what its shortcut keeps.",
  "tour.raw.title": "Where the shortcut starts",
  "tour.raw.text": "A projection takes the normalised input, after the first norm. This swaps it "
    + "for the raw one, in all four stages: an easy mistake.",
  "tour.raw.question": "What will the network say?",
  "tour.raw.0": "the same, about as sure",
  "tour.raw.1": "the same, less sure",
  "tour.raw.2": "something else",
  "tour.raw.reveal": "“{label}” went from {before} to {after}; the answer is “{now}”. Nothing "
    + "crashes, all shapes fit: only comparing layer by layer shows where it is.",
  "tour.mirror.title": "Mirrored",
  "tour.mirror.text": "Left and right are about to be exchanged.",
  "tour.mirror.question": "What will the network say?",
  "tour.mirror.0": "the same, about as sure",
  "tour.mirror.1": "the same, less sure",
  "tour.mirror.2": "something else",
  "tour.mirror.reveal": "“{label}” went from {before} to {after}; the answer is “{now}”. Most "
    + "networks are trained on mirrored pictures, too.",
  "tour.turn.title": "Upside down",
  "tour.turn.text": "Now the photograph is turned by 180°.",
  "tour.turn.question": "What will the network say?",
  "tour.turn.0": "the same, about as sure",
  "tour.turn.1": "the same, less sure",
  "tour.turn.2": "something else",
  "tour.turn.reveal": "“{label}” went from {before} to {after}; the answer is “{now}”. Nothing in "
    + "a convolution knows what turning is: only the training pictures could have taught it.",
  "tour.bytes.title": "Forgotten normalisation",
  "tour.bytes.text": "The network expects numbers from −1 to 1. Give it the bytes as they are, "
    + "from 0 to 255.",
  "tour.bytes.question": "What will the network say?",
  "tour.bytes.0": "the same, about as sure",
  "tour.bytes.1": "the same, less sure",
  "tour.bytes.2": "something else",
  "tour.bytes.reveal": "“{label}” went from {before} to {after}; the answer is “{now}”. No error "
    + "tells of it.",
  "tour.map.title": "Where the answer comes from",
  "tour.map.text": "The last feature map is averaged, and the classifier weighs the channels. "
    + "Weigh first, then average, and there is a map for each class.",
  "tour.map.question": "What is the mean of that map?",
  "tour.map.0": "exactly the class's logit",
  "tour.map.1": "about the logit",
  "tour.map.2": "the class's probability",
  "tour.map.reveal": "The map's mean is {mean}, the logit of “{label}” {logit}. It lies over the "
    + "photograph now.",
  "tour.sum.title": "A vote",
  "tour.sum.text": "A logit is a sum over all channels of the last layer: each adds its mean "
    + "times a weight.",
  "tour.sum.question": "How many channels make half of what speaks for the answer?",
  "tour.sum.0": "four or fewer",
  "tour.sum.1": "more, but less than a quarter of them",
  "tour.sum.2": "a quarter of them or more",
  "tour.sum.reveal": "{needed} of {channels}. Click any of them, and follow it down to the pixels.",
};
