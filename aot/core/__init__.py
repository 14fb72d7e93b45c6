"""The mathematics of AOT: tensors in, tensors out. No model, no file, no settings object.

grid       windows, positions and pooling of a frame's patch grid
anchors    which patches of a frame are kept (Phase I selection)
cost       what it costs to move a token to an anchor
sinkhorn   the transport plan
intra      Phase I: a frame's discarded patches flow into its anchors
inter      Phase II: a clip's repeated tokens flow into its keyframe
clips      where a video changes
budget     how many anchors and distinct tokens meet a token budget exactly
"""
