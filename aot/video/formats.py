"""List the file formats that may be opened, by the names of FFmpeg's demuxers."""

from __future__ import annotations

__all__ = ["FORMATS"]

_CONTAINERS = """
    amv asf asf_o avi dhav dv flv gxf kux live_flv lxf matroska mov mpeg mpegts mpegvideo mtv mxf mxg nsv nut nuv ogg
    pva r3d rm swf ty vivo wtv
"""
_BARE_STREAMS = """
    apv av1 avs2 avs3 cavsvideo dirac dnxhd evc h261 h263 h264 hevc ingenient ivf m4v mjpeg mjpeg_2000 mpjpeg obu vc1
    vc1test vvc yuv4mpegpipe
"""
_CAMERAS_AND_GAMES = """
    3dostr 4xm anm argo_brp avr avs bethsoftvid bfi bink bmv c93 cdg cdxl cine dsicin dxa ea film_cpk filmstrip flic gdv
    hnm idcin iff ifv ipmovie ipu iss iv8 jv lmlm4 lvf mgsts mm mods moflex msnwctcp mv mvi paf pdv pmp psxstr rl2 roq
    rpl ser sga siff smk smush thp tiertexseq tmv txd vmd wc3movie wsvqa xmv yop
"""
# FFmpeg recognizes `image2` by the name of the file, the others by its data.
_PICTURES = """
    alias_pix apng bmp_pipe brender_pix cri_pipe dds_pipe dpx_pipe exr_pipe fits gem_pipe gif gif_pipe hdr_pipe ico
    image2 j2k_pipe jpeg_pipe jpegls_pipe jpegxl_anim jpegxl_pipe jpegxs_pipe pam_pipe pbm_pipe pcx_pipe pfm_pipe
    pgm_pipe pgmyuv_pipe pgx_pipe phm_pipe photocd_pipe pictor_pipe png_pipe ppm_pipe psd_pipe qdraw_pipe qoi_pipe
    sgi_pipe sunrast_pipe tiff_pipe vbn_pipe webp webp_anim webp_pipe xbm_pipe xpm_pipe xwd_pipe
"""
# Sound files are opened so that the error can state that they have no picture, or only a cover.
_SOUND = "aac ac3 aiff ape caf eac3 flac mp3 w64 wav"

# Left out on purpose: devices, demuxers that accept any text (bin, tty), and demuxers that open
# further files (playlists such as concat, dash, hls and imf; mlv; rtp, sap and sdp; svg; vobsub).
FORMATS = tuple(" ".join((_CONTAINERS, _BARE_STREAMS, _CAMERAS_AND_GAMES, _PICTURES, _SOUND)).split())
